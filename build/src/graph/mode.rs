//! `--chmod`: octal, or symbolic as `chmod(1)` has it.

use layerfs::error::{Error, Kind};

/// A change of mode.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Chmod {
    /// These twelve bits.
    Octal(u32),
    /// These clauses, in order.
    Symbolic(Vec<Clause>),
}

/// `[ugoa]*[+-=][rwxXst]*`, or `[ugoa]*[+-=][ugo]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Clause {
    /// Bits of the classes it is about: 0o700, 0o070, 0o007.
    who: u32,
    operator: Operator,
    /// Permission bits, for each class alike (0 to 7).
    permissions: u32,
    /// `X`: execute where it is a folder, or executable by anyone.
    execute_if: bool,
    set_id: bool,
    sticky: bool,
    /// Takes the permissions of this class: its shift (6, 3 or 0).
    copy_from: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Operator {
    Add,
    Remove,
    Set,
}

impl Chmod {
    /// Reads the value of `--chmod`.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let invalid = || {
            Error::new(Kind::Invalid, format!("`{}` is not a file mode", text.escape_debug()))
                .hint("the form is octal, such as 0755, or symbolic, such as u=rwX,go=rX")
        };
        if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
            let bits = u32::from_str_radix(text, 8).ok().filter(|bits| *bits <= 0o7777);
            return bits.map(Self::Octal).ok_or_else(invalid);
        }
        let mut clauses = Vec::new();
        for part in text.split(',') {
            clauses.extend(parse_clauses(part).ok_or_else(invalid)?);
        }
        Ok(Self::Symbolic(clauses))
    }

    /// The mode that a file of mode `mode` gets. Only the low twelve bits are looked at and returned.
    pub fn apply(&self, mode: u32, is_dir: bool) -> u32 {
        match self {
            Self::Octal(bits) => *bits,
            Self::Symbolic(clauses) => clauses.iter().fold(mode & 0o7777, |mode, clause| clause.apply(mode, is_dir)),
        }
    }
}

/// One comma-separated part: classes, then one or more operators with their permissions.
fn parse_clauses(part: &str) -> Option<Vec<Clause>> {
    let operators = part.find(['+', '-', '='])?;
    let (classes, mut rest) = part.split_at(operators);
    let mut who = 0;
    for class in classes.chars() {
        who |= match class {
            'u' => 0o700,
            'g' => 0o070,
            'o' => 0o007,
            'a' => 0o777,
            _ => return None,
        };
    }
    if who == 0 {
        who = 0o777;
    }
    let mut clauses = Vec::new();
    while !rest.is_empty() {
        let operator = match rest.as_bytes()[0] {
            b'+' => Operator::Add,
            b'-' => Operator::Remove,
            _ => Operator::Set,
        };
        rest = &rest[1..];
        let end = rest.find(['+', '-', '=']).unwrap_or(rest.len());
        let mut clause =
            Clause { who, operator, permissions: 0, execute_if: false, set_id: false, sticky: false, copy_from: None };
        for letter in rest[..end].chars() {
            match letter {
                'r' => clause.permissions |= 4,
                'w' => clause.permissions |= 2,
                'x' => clause.permissions |= 1,
                'X' => clause.execute_if = true,
                's' => clause.set_id = true,
                't' => clause.sticky = true,
                'u' | 'g' | 'o' if end == 1 => {
                    clause.copy_from = Some(match letter {
                        'u' => 6,
                        'g' => 3,
                        _ => 0,
                    });
                }
                _ => return None,
            }
        }
        clauses.push(clause);
        rest = &rest[end..];
    }
    Some(clauses)
}

impl Clause {
    fn apply(&self, mode: u32, is_dir: bool) -> u32 {
        let mut permissions = match self.copy_from {
            Some(shift) => (mode >> shift) & 7,
            None => self.permissions,
        };
        if self.execute_if && (is_dir || mode & 0o111 != 0) {
            permissions |= 1;
        }
        let mut bits = (permissions * 0o111) & self.who;
        if self.set_id {
            bits |= if self.who & 0o700 != 0 { 0o4000 } else { 0 } | if self.who & 0o070 != 0 { 0o2000 } else { 0 };
        }
        if self.sticky {
            bits |= 0o1000;
        }
        match self.operator {
            Operator::Add => mode | bits,
            Operator::Remove => mode & !bits,
            Operator::Set => {
                let set_id =
                    if self.who & 0o700 != 0 { 0o4000 } else { 0 } | if self.who & 0o070 != 0 { 0o2000 } else { 0 };
                let sticky = if self.who == 0o777 { 0o1000 } else { 0 };
                // chmod(1) leaves a folder's set-id bits alone unless they are named.
                let cleared = self.who | sticky | if is_dir { 0 } else { set_id };
                (mode & !cleared) | bits
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_follow_chmod() {
        for (text, mode, is_dir, expected) in [
            ("755", 0o600, false, 0o755),
            ("0", 0o600, false, 0),
            ("u=rwX,go=rX", 0o600, false, 0o644),
            ("u=rwX,go=rX", 0o700, false, 0o755),
            ("u=rwX,go=rX", 0o600, true, 0o755),
            ("+x", 0o644, false, 0o755),
            ("a-w", 0o666, false, 0o444),
            ("g=u", 0o750, false, 0o770),
            ("u+s", 0o755, false, 0o4755),
            ("g+s,o-rx", 0o755, true, 0o2750),
            ("+t", 0o777, true, 0o1777),
            ("u+x-w", 0o644, false, 0o544),
        ] {
            assert_eq!(Chmod::parse(text).expect(text).apply(mode, is_dir), expected, "{text} on {mode:o}");
        }
        for invalid in ["", "8", "77777", "u", "u~x", "rwx", "q+x", "u+ug"] {
            assert!(Chmod::parse(invalid).is_err(), "{invalid}");
        }
    }
}
