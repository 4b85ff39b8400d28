//! Verbs that look: list and ps.

use std::process::{Command, Stdio};

use layerfs::error::{Context, Error, Kind, Result};

use super::arguments::{Format, List, Ps};
use super::instances::{Instance, Instances, Status};
use super::{print, say};

/// One container. As with crun and runc there is nothing to be seen of it before it is made.
pub(super) fn state(instance: &Instance) -> Result<i32> {
    match instance.status() {
        Status::Creating => {
            let sentence = format!("container `{}` is being made, or was left half-made", instance.id());
            Err(Error::new(Kind::Conflict, sentence).hint("delete --force removes what is left of one"))
        }
        _ => print(&instance.state()),
    }
}

/// All containers of a root.
pub(super) fn list(instances: &Instances, list: &List) -> Result<i32> {
    let all: Vec<Instance> = instances.all()?;
    if list.quiet {
        return say(&all.iter().map(|instance| format!("{}\n", instance.id())).collect::<String>());
    }
    if list.format == Format::Json {
        let states: Vec<_> = all.iter().map(Instance::state).collect();
        return say(&format!("{}\n", serde_json::json!(states)));
    }
    let columns = ["id", "pid", "status", "bundle", "created", "owner"];
    let mut rows = vec![columns.map(str::to_uppercase).to_vec()];
    for instance in &all {
        let state = instance.state();
        let text = |key: &str| state[key].as_str().map_or_else(|| state[key].to_string(), str::to_owned);
        rows.push(columns.map(text).to_vec());
    }
    say(&crate::format::table(&rows))
}

/// The processes of a container: their numbers, or the rows that `ps` has for them.
pub(super) fn ps(instance: &Instance, ps: &Ps) -> Result<i32> {
    let pids = if instance.status() == Status::Stopped { Vec::new() } else { instance.processes()? };
    if ps.format == Format::Json {
        return say(&format!("{}\n", serde_json::json!(pids)));
    }
    let options = if ps.options.is_empty() { &["-ef".to_owned()][..] } else { &ps.options[..] };
    let output = Command::new("ps").args(options).stderr(Stdio::inherit()).output().context(|| "start `ps`")?;
    if !output.status.success() {
        return Err(Error::new(Kind::Usage, format!("`ps {}` failed", options.join(" "))));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    say(&rows_of(&text, &pids)?)
}

/// The heading, and the rows whose number is one of these.
fn rows_of(table: &str, pids: &[i32]) -> Result<String> {
    let mut lines = table.lines();
    let heading = lines.next().unwrap_or_default();
    let column = heading.split_whitespace().position(|word| word == "PID");
    let column = column.ok_or_else(|| {
        Error::new(Kind::Usage, "what `ps` prints has no column PID")
            .hint("leave its options out, or ask for it by -o pid")
    })?;
    let is_ours = |line: &&str| {
        let number = line.split_whitespace().nth(column).and_then(|word| word.parse().ok());
        number.is_some_and(|number: i32| pids.contains(&number))
    };
    Ok(std::iter::once(heading).chain(lines.filter(is_ours)).map(|line| format!("{line}\n")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_found_by_number() {
        let table = "UID  PID PPID\nroot   1    0\nroot  22    1\nroot 222    1\n";
        assert_eq!(rows_of(table, &[22, 7]).expect("a column"), "UID  PID PPID\nroot  22    1\n");
        assert!(rows_of("USER\nroot\n", &[1]).is_err());
    }
}
