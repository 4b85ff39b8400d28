//! `EXPOSE`: `PORT[-PORT][/PROTOCOL]`, with an address or host port before it that means nothing here.

use crate::dockerfile::Fault;

/// The ports that one word names, as `PORT/PROTOCOL`.
pub(super) fn parse(word: &str) -> Result<Vec<String>, Fault> {
    let invalid = || {
        Fault::new(format!("`{}` is not a port", word.escape_debug()))
            .hint("the form is PORT[-PORT][/PROTOCOL], such as 8080, 53/udp or 7000-7009/tcp")
    };
    let (ports, protocol) = word.split_once('/').map_or((word, "tcp"), |(ports, protocol)| (ports, protocol));
    let protocol = if protocol.is_empty() { "tcp".to_owned() } else { protocol.to_ascii_lowercase() };
    if !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
        return Err(invalid());
    }
    // `ADDRESS:HOST-PORT:PORT` is read as docker reads it: only the last part names what is exposed.
    let ports = ports.rsplit_once(':').map_or(ports, |(_, port)| port);
    let number = |text: &str| text.parse::<u16>().map_err(|_| invalid());
    let (first, last) = match ports.split_once('-') {
        Some((first, last)) => (number(first)?, number(last)?),
        None => (number(ports)?, number(ports)?),
    };
    if last < first {
        return Err(invalid());
    }
    Ok((first..=last).map(|port| format!("{port}/{protocol}")).collect())
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn ports_ranges_and_protocols() {
        for (word, expected) in
            [("80", "80/tcp"), ("53/UDP", "53/udp"), ("7-9/tcp", "7/tcp 8/tcp 9/tcp"), ("127.0.0.1:8080:80", "80/tcp")]
        {
            assert_eq!(parse(word).expect(word).join(" "), expected);
        }
        for invalid in ["", "x", "70000", "9-7", "80/icmp", "80-"] {
            assert!(parse(invalid).is_err(), "{invalid}");
        }
    }
}
