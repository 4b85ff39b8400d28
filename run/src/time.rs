//! Moments and ages as `run` tells them.

pub use layerfs::time::{SECOND, format, now, parse};

/// The age of something, in the words of `ps`.
pub fn age(nanoseconds: i128) -> String {
    let seconds = (nanoseconds / SECOND).max(0);
    let plural = |count: i128, unit: &str| format!("{count} {unit}{}", if count == 1 { "" } else { "s" });
    match seconds {
        0 => "less than a second".to_owned(),
        1..60 => plural(seconds, "second"),
        60..3600 => plural(seconds / 60, "minute"),
        3600..172_800 => plural(seconds / 3600, "hour"),
        172_800..1_209_600 => plural(seconds / 86_400, "day"),
        1_209_600..5_184_000 => plural(seconds / 604_800, "week"),
        5_184_000..63_072_000 => plural(seconds / 2_592_000, "month"),
        _ => plural(seconds / 31_536_000, "year"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_have_words() {
        for (seconds, words) in [(0, "less than a second"), (1, "1 second"), (90, "1 minute"), (90_000, "25 hours")] {
            assert_eq!(age(seconds * SECOND), words);
        }
    }
}
