//! What a server exports: its connections, and until when its certificate is valid.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::Serving;
use super::connections::Connections;
use crate::encode_gauge::encode_gauge;
use crate::tls::Tls;

impl Serving {
    /// Has `/metrics` show `coral_connections_open`, `coral_connections_refused_total{limit}` with the
    /// limit that was reached (`address` or `all`), and, while there is a certificate,
    /// `coral_certificate_not_after_timestamp_seconds`.
    pub fn register_metrics(&self, registry: &mut Registry) {
        registry.register_collector(Box::new(ServingMetrics {
            connections: self.connections.clone(),
            tls: self.tls.clone(),
        }));
    }
}

#[derive(Debug)]
struct ServingMetrics {
    connections: Connections,
    tls: Tls,
}

impl Collector for ServingMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let counts = self.connections.counts();
        let open = i64::try_from(counts.open).unwrap_or(i64::MAX);
        let (name, help) = ("coral_connections_open", "Connections that are served");
        encode_gauge(&mut encoder, name, help, open)?;
        let help = "Connections that were refused, by the limit that was reached: of one address, or of all";
        let name = "coral_connections_refused";
        let mut refused = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (limit, count) in [
            ("address", counts.refused_address),
            ("all", counts.refused_all),
        ] {
            refused
                .encode_family(&[("limit", limit)])?
                .encode_counter::<NoLabelSet, u64, u64>(&count, None)?;
        }
        if let Some(validity) = self.tls.validity() {
            let help = "The last second in which the certificate is valid, in seconds since 1970";
            let name = "coral_certificate_not_after_timestamp_seconds";
            encode_gauge(&mut encoder, name, help, validity.until)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;
    use crate::tls::CertificatePair;

    fn text(serving: &Serving) -> String {
        let mut registry = Registry::default();
        serving.register_metrics(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        text
    }

    #[test]
    fn open_and_refused_connections_are_counted() {
        let serving = Serving {
            connections: Connections::at_most(2),
            ..Serving::default()
        };
        serving.connections.set_limit_per_address(Some(1));
        let client = |last| IpAddr::V4(Ipv4Addr::new(192, 0, 2, last));
        let _first = serving.connections.acquire(client(1)).unwrap();
        serving.connections.acquire(client(1)).unwrap_err();
        let second = serving.connections.acquire(client(2)).unwrap();
        for _ in 0..2 {
            serving.connections.acquire(client(3)).unwrap_err();
        }
        drop(second);
        let shown = text(&serving);
        for line in [
            "coral_connections_open 1\n",
            "coral_connections_refused_total{limit=\"address\"} 1\n",
            "coral_connections_refused_total{limit=\"all\"} 2\n",
        ] {
            assert!(shown.contains(line), "{line} is not in {shown}");
        }
    }

    #[test]
    fn the_end_of_a_certificate_is_shown_while_there_is_one() {
        let name = "coral_certificate_not_after_timestamp_seconds";
        let serving = Serving::default();
        assert!(!text(&serving).contains(name));
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        let pair = CertificatePair::from_pem(certificate.as_bytes(), key.as_bytes()).unwrap();
        let until = pair.validity().unwrap().until;
        serving.tls.set(Some(pair));
        let shown = text(&serving);
        assert!(shown.contains(&format!("{name} {until}\n")), "{shown}");
    }

    /// The alert of the rule file, as Prometheus would compute it from what is shown.
    #[test]
    fn the_alert_on_a_certificate_fires_in_its_last_two_weeks_and_after_them() {
        let rules = include_str!("../../../../deploy/monitoring/registry-rules.yaml");
        let (_, rest) = rules
            .split_once("alert: CoralCertificateExpires\n")
            .unwrap();
        let expression = rest.lines().next().unwrap().trim();
        let (name, bound) = expression
            .strip_prefix("expr: ")
            .and_then(|it| it.split_once(" - time() < "))
            .unwrap();
        let bound: i64 = bound.parse().unwrap();
        let serving = Serving::default();
        let until_of = |shown: &str| {
            let mut lines = shown.lines();
            let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            value.map(|value| value.parse::<i64>().unwrap())
        };
        // Without TLS there is no certificate that could expire.
        assert_eq!(until_of(&text(&serving)), None);
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        let pair = CertificatePair::from_pem(certificate.as_bytes(), key.as_bytes()).unwrap();
        let end = pair.validity().unwrap().until;
        serving.tls.set(Some(pair));
        let shown = until_of(&text(&serving)).unwrap();
        for (days, fires) in [(15, false), (13, true), (-1, true)] {
            let now = end - days * 86_400;
            assert_eq!(shown - now < bound, fires, "{days} days before the end");
        }
    }
}
