//! Private keys as Secrets hold them.

use russh::keys::ssh_key::private::Ed25519Keypair;
use russh::keys::ssh_key::{Cipher, Kdf, LineEnding};

use super::*;

fn problem(text: &str) -> String {
    let read = private_key(&Redacted::new(text.to_owned()));
    read.unwrap_err().to_string()
}

#[test]
fn a_key_that_no_build_can_use_is_refused_with_the_reason_and_without_its_text() {
    let key: PrivateKey = Ed25519Keypair::from_seed(&[1; 32]).into();
    let plain = key.to_openssh(LineEnding::LF).unwrap().to_string();
    assert!(private_key(&Redacted::new(plain.clone())).is_ok());
    assert!(private_key(&Redacted::new(plain.replace('\n', "\r\n"))).is_ok());
    let kdf = Kdf::Bcrypt {
        salt: vec![1; 16],
        rounds: 1,
    };
    let encrypted = key.encrypt_with(Cipher::Aes256Ctr, kdf, 1, "word").unwrap();
    let encrypted = encrypted.to_openssh(LineEnding::LF).unwrap();
    let pem = |kind: &str, more: &str| {
        format!("-----BEGIN {kind}-----\n{more}MIIEpAIB\n-----END {kind}-----\n")
    };
    for (text, said) in [
        (encrypted.to_string(), ENCRYPTED),
        (pem("ENCRYPTED PRIVATE KEY", ""), ENCRYPTED),
        (
            pem("EC PRIVATE KEY", "Proc-Type: 4,ENCRYPTED\n\n"),
            ENCRYPTED,
        ),
        (pem("RSA PRIVATE KEY", ""), OTHER_TYPE),
        (pem("PRIVATE KEY", ""), "is not a private key"),
        ("t0p-s3cret".to_owned(), "is not a private key"),
        (plain.replace('A', ""), "is not a private key"),
    ] {
        let problem = problem(&text);
        assert!(problem.contains(said), "{problem}");
        assert!(problem.contains("ssh-privatekey"), "{problem}");
        assert!(
            !problem.contains("s3cret") && !problem.contains("MII"),
            "{problem}"
        );
    }
}

/// One RSA key, made for these tests and for nothing else, in the forms that `ssh-keygen` writes.
const RSA: [&str; 3] = [
    // Of OpenSSH.
    "-----BEGIN OPENSSH PRIVATE KEY-----
b3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQAAAAAAAAABAAAAlwAAAAdzc2gtcn
NhAAAAAwEAAQAAAIEAyNj+wW84uIco9Ignuic+G0ciJ0fczb16RK/aRieHv2qYgcMz6e2K
o5zGBLUkahUMOur769rHe2czmBZyOPFKisvbbARDeArN5fxyktm+AHXN/t4iTMQdG5qXNH
kxk8KsGd+ClZzCkoWgmyA+yVOoOOqf2C8Gjepj/ezGZqzrjlsAAAH40c2KEtHNihIAAAAH
c3NoLXJzYQAAAIEAyNj+wW84uIco9Ignuic+G0ciJ0fczb16RK/aRieHv2qYgcMz6e2Ko5
zGBLUkahUMOur769rHe2czmBZyOPFKisvbbARDeArN5fxyktm+AHXN/t4iTMQdG5qXNHkx
k8KsGd+ClZzCkoWgmyA+yVOoOOqf2C8Gjepj/ezGZqzrjlsAAAADAQABAAAAgG4pZwHd6T
R9Hd+R1ohqAcygZYE6D0fhh3CpK4WTJQe+hcuWr6C9I2++C3aFjGWLCdw/CtJAe22aG1ht
51SINCOXv5FITwx4F/rMnD/8ZyK4EVf9w98q3Hcoi54/zEKsr2yG3VYSR/3CDzEa6x8XQq
7NqzzFJBZT1yg3Wt0F3maRAAAAQQDHweS+Ca3SUuSQk6IoFn5gezcw91t/Zg/C3ShxyBHg
auGBVDNKyOBLf8LX1IiASiXQLDTebkG5MNoXVWaBhQ6GAAAAQQDumV7PcyUleqGiZtzeIN
+/nekb766PPEpM22zM1Fesu5S42e2dBJ2KseiBSqiBhZWTbCxcDUdzEKXAsIyGcJE3AAAA
QQDXfs6xLBNRi3rmhdTF2bnr3xh0+/Vt10Y1M1XB2qkOgPEEAVDfqj5ZO4FPD0pozjrnde
o8oGYomtxvPHa9Nc39AAAAAAEC
-----END OPENSSH PRIVATE KEY-----
",
    // PKCS#8.
    "-----BEGIN PRIVATE KEY-----
MIICeAIBADANBgkqhkiG9w0BAQEFAASCAmIwggJeAgEAAoGBAMjY/sFvOLiHKPSI
J7onPhtHIidH3M29ekSv2kYnh79qmIHDM+ntiqOcxgS1JGoVDDrq++vax3tnM5gW
cjjxSorL22wEQ3gKzeX8cpLZvgB1zf7eIkzEHRualzR5MZPCrBnfgpWcwpKFoJsg
PslTqDjqn9gvBo3qY/3sxmas645bAgMBAAECgYBuKWcB3ek0fR3fkdaIagHMoGWB
Og9H4YdwqSuFkyUHvoXLlq+gvSNvvgt2hYxliwncPwrSQHttmhtYbedUiDQjl7+R
SE8MeBf6zJw//GciuBFX/cPfKtx3KIueP8xCrK9sht1WEkf9wg8xGusfF0Kuzas8
xSQWU9coN1rdBd5mkQJBAO6ZXs9zJSV6oaJm3N4g37+d6Rvvro88SkzbbMzUV6y7
lLjZ7Z0EnYqx6IFKqIGFlZNsLFwNR3MQpcCwjIZwkTcCQQDXfs6xLBNRi3rmhdTF
2bnr3xh0+/Vt10Y1M1XB2qkOgPEEAVDfqj5ZO4FPD0pozjrndeo8oGYomtxvPHa9
Nc39AkEAwKk5RHuuuAfAsnkqyXZ0Fa71xygPpPtC57KatP6VWRYSrfzTAGH0sESe
AKB/Vi6+q87CNwZF9mSv4trsbbZBmwJBAJAvboipHvvuwXrAjQ8ckQO7MBgGBb9K
zNUH1hdxALCNobW2U7BzrmfyIqENcBIT+uGnyeRqxi/g/iEHacNL3tkCQQDHweS+
Ca3SUuSQk6IoFn5gezcw91t/Zg/C3ShxyBHgauGBVDNKyOBLf8LX1IiASiXQLDTe
bkG5MNoXVWaBhQ6G
-----END PRIVATE KEY-----
",
    // PKCS#1.
    "-----BEGIN RSA PRIVATE KEY-----
MIICXgIBAAKBgQDI2P7Bbzi4hyj0iCe6Jz4bRyInR9zNvXpEr9pGJ4e/apiBwzPp
7YqjnMYEtSRqFQw66vvr2sd7ZzOYFnI48UqKy9tsBEN4Cs3l/HKS2b4Adc3+3iJM
xB0bmpc0eTGTwqwZ34KVnMKShaCbID7JU6g46p/YLwaN6mP97MZmrOuOWwIDAQAB
AoGAbilnAd3pNH0d35HWiGoBzKBlgToPR+GHcKkrhZMlB76Fy5avoL0jb74LdoWM
ZYsJ3D8K0kB7bZobWG3nVIg0I5e/kUhPDHgX+sycP/xnIrgRV/3D3yrcdyiLnj/M
QqyvbIbdVhJH/cIPMRrrHxdCrs2rPMUkFlPXKDda3QXeZpECQQDumV7PcyUleqGi
ZtzeIN+/nekb766PPEpM22zM1Fesu5S42e2dBJ2KseiBSqiBhZWTbCxcDUdzEKXA
sIyGcJE3AkEA137OsSwTUYt65oXUxdm5698YdPv1bddGNTNVwdqpDoDxBAFQ36o+
WTuBTw9KaM4653XqPKBmKJrcbzx2vTXN/QJBAMCpOUR7rrgHwLJ5Ksl2dBWu9cco
D6T7QueymrT+lVkWEq380wBh9LBEngCgf1YuvqvOwjcGRfZkr+La7G22QZsCQQCQ
L26IqR777sF6wI0PHJEDuzAYBgW/SszVB9YXcQCwjaG1tlOwc65n8iKhDXASE/rh
p8nkasYv4P4hB2nDS97ZAkEAx8Hkvgmt0lLkkJOiKBZ+YHs3MPdbf2YPwt0occgR
4GrhgVQzSsjgS3/C19SIgEol0Cw03m5BuTDaF1VmgYUOhg==
-----END RSA PRIVATE KEY-----
",
];

#[test]
fn an_rsa_key_is_refused_in_every_form_with_the_types_that_are_taken() {
    for text in RSA {
        let problem = problem(text);
        assert!(problem.contains("such as RSA"), "{problem}");
        assert!(problem.contains("ed25519 and ecdsa"), "{problem}");
        let first = text.lines().nth(1).unwrap();
        assert!(!problem.contains(first), "{problem}");
    }
}
