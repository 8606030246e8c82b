//! Manifests that no tag reaches.

use super::*;

fn untagged_after(length: Duration) -> CollectionRules {
    CollectionRules {
        untagged: Some(length),
        ..rules()
    }
}

fn has(files: &Files, repository: &RepositoryPath, image: &Manifest) -> bool {
    let wanted = (repository.clone(), Version::Digest(image.digest()));
    // Reading grants no lease.
    files.manifest(&wanted).unwrap().is_some()
}

#[test]
fn untagged_manifests_go_only_where_that_is_wanted_and_not_before_they_were_untagged_for_so_long() {
    let (folder, files) = store();
    let a = repository("a");
    push(folder.path(), &files, &a, b"layer");
    push(folder.path(), &files, &a, b"other");
    let (child, alone) = (manifest(&[b"layer"], None), manifest(&[b"other"], None));
    let signature = manifest(&[b"layer", b"other"], Some(&child));
    for image in [&child, &alone, &signature] {
        files.put_manifest(&a, image, &[]).unwrap();
    }
    let all = index(&[&child]);
    files.put_manifest(&a, &all, &[tag("v1")]).unwrap();
    files.leases.advance(GRACE * 100);
    assert_eq!(collect(&files, &rules()).manifests, 0);
    let untagged = CollectionRules {
        untagged: Some(GRACE * 4),
        ..rules()
    };
    assert_eq!(collect(&files, &untagged).manifests, 1);
    let has = |image: &Manifest| {
        let wanted = (a.clone(), Version::Digest(image.digest()));
        files.resolve(&wanted).unwrap().is_some()
    };
    assert!(has(&child) && has(&signature) && has(&all) && !has(&alone));
    files.delete_tag(&a, &tag("v1")).unwrap();
    assert_eq!(collect(&files, &untagged).manifests, 0);
    files.leases.advance(GRACE * 5);
    assert_eq!(collect(&files, &untagged).manifests, 3);
    files.leases.advance(GRACE * 5);
    assert_eq!(collect(&files, &untagged).kept_contents, 0);
}

#[test]
fn a_manifest_that_loses_its_tag_stays_from_then_on_whatever_was_collected_before() {
    let (folder, files) = store();
    let a = repository("a");
    for layer in [&b"layer"[..], b"other"] {
        push(folder.path(), &files, &a, layer);
    }
    let (child, later) = (manifest(&[b"layer"], None), manifest(&[b"other"], None));
    let all = index(&[&child]);
    files.put_manifest(&a, &child, &[]).unwrap();
    files.put_manifest(&a, &all, &[tag("latest")]).unwrap();
    assert_eq!(collect(&files, &rules()).manifests, 0);
    files.leases.advance(GRACE * 100);
    push(folder.path(), &files, &a, b"other");
    files.put_manifest(&a, &later, &[tag("latest")]).unwrap();
    let untagged = untagged_after(GRACE * 4);
    assert_eq!(collect(&files, &untagged).manifests, 0);
    assert!(has(&files, &a, &all) && has(&files, &a, &child));
    files.leases.advance(GRACE * 5);
    assert_eq!(collect(&files, &untagged).manifests, 2);
    // The same for a deleted tag, without a collection in between.
    files.leases.advance(GRACE * 100);
    files.delete_tag(&a, &tag("latest")).unwrap();
    assert_eq!(collect(&files, &untagged).manifests, 0);
    files.leases.advance(GRACE * 5);
    assert_eq!(collect(&files, &untagged).manifests, 1);
}

#[test]
fn an_untagged_index_that_clients_ask_for_keeps_its_children_and_goes_with_them() {
    let (folder, files) = store();
    let a = repository("a");
    push(folder.path(), &files, &a, b"layer");
    let child = manifest(&[b"layer"], None);
    let signature = manifest(&[b"layer", b"layer"], Some(&child));
    let all = index(&[&child]);
    for image in [&child, &signature, &all] {
        files.put_manifest(&a, image, &[]).unwrap();
    }
    let untagged = untagged_after(GRACE * 4);
    for _ in 0..4 {
        files.leases.advance(GRACE * 3);
        let wanted = (a.clone(), Version::Digest(all.digest()));
        assert!(files.resolve(&wanted).unwrap().is_some());
        assert_eq!(collect(&files, &untagged).manifests, 0);
    }
    assert!(has(&files, &a, &child) && has(&files, &a, &signature));
    files.leases.advance(GRACE * 5);
    assert_eq!(collect(&files, &untagged).manifests, 3);
}

#[test]
fn a_tagged_index_keeps_children_of_whatever_type() {
    let (folder, files) = store();
    let a = repository("a");
    push(folder.path(), &files, &a, b"layer");
    let media_type = "application/vnd.example.thing.v1+json";
    let image = manifest(&[b"layer"], None);
    let text = String::from_utf8(image.bytes().to_vec()).unwrap();
    let text = text.replace(coral_image::media_type::OCI_MANIFEST, media_type);
    let odd = Manifest::parse(Bytes::from(text), Some(media_type)).unwrap();
    files.put_manifest(&a, &odd, &[]).unwrap();
    let all = index(&[&odd]);
    files.put_manifest(&a, &all, &[tag("v1")]).unwrap();
    files.leases.advance(GRACE * 100);
    assert_eq!(collect(&files, &untagged_after(GRACE)).manifests, 0);
    assert!(has(&files, &a, &odd));
}
