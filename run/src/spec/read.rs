//! A `config.json` as its author wrote it: parsed, with the JSON path of what is wrong.
//!
//! Unknown keys are passed over and unknown values refused, as the specification wants ("Extensibility" and "Valid
//! values" of `config.md`), but for capabilities: one that nobody knows is only worth a warning ("Linux Process"). What
//! only the kernel can refuse is left to the step that asks it.

use layerfs::error::{Context, Error, Kind, Result};
use oci_spec::runtime::{Capability, Process, Spec};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// Reads a Spec. `note` receives what is left out of it.
///
/// # Errors
/// [`Kind::Invalid`]: the JSON path of the value, and what was expected there.
pub fn read(bytes: &[u8], note: &mut dyn FnMut(String)) -> Result<Spec> {
    let spec: Spec = parse(bytes, "/process", note)?;
    if let Some(process) = spec.process() {
        check_process(process).map_err(|error| under("process", &error))?;
    }
    for (index, mount) in spec.mounts().iter().flatten().enumerate() {
        if mount.destination().as_os_str().is_empty() {
            return Err(Error::new(Kind::Invalid, format!("mounts[{index}].destination is empty")));
        }
    }
    let devices = spec.linux().as_ref().and_then(|linux| linux.devices().as_ref());
    for (index, device) in devices.into_iter().flatten().enumerate() {
        if !device.path().is_absolute() {
            let path = device.path().display();
            return Err(Error::new(Kind::Invalid, format!("linux.devices[{index}].path: `{path}` is not absolute")));
        }
    }
    Ok(spec)
}

/// Reads a process alone, as `exec` is given it.
///
/// # Errors
/// As [`read`].
pub fn read_process(bytes: &[u8], note: &mut dyn FnMut(String)) -> Result<Process> {
    let process = parse(bytes, "", note)?;
    check_process(&process).map(|()| process)
}

fn under(field: &str, error: &Error) -> Error {
    Error::new(error.kind(), format!("{field}.{error}"))
}

fn check_process(process: &Process) -> Result<()> {
    let folder = process.cwd();
    if !folder.is_absolute() {
        return Err(Error::new(Kind::Invalid, format!("cwd: `{}` is not absolute", folder.display())));
    }
    let limits = process.rlimits().as_deref().unwrap_or_default();
    for (index, limit) in limits.iter().enumerate() {
        if limits[..index].iter().any(|other| other.typ() == limit.typ()) {
            return Err(Error::new(Kind::Invalid, format!("rlimits[{index}]: {} is there twice", limit.typ())));
        }
        if limit.soft() > limit.hard() {
            let sentence = format!("rlimits[{index}]: the soft limit of {} is above its hard one", limit.typ());
            return Err(Error::new(Kind::Invalid, sentence));
        }
    }
    Ok(())
}

fn parse<T: DeserializeOwned>(bytes: &[u8], process: &str, note: &mut dyn FnMut(String)) -> Result<T> {
    // The path costs time at every step, so it is only looked for once there is something to tell.
    match serde_json::from_slice(bytes) {
        Ok(value) => Ok(value),
        Err(error) if error.is_data() => {
            let respelled = respelled(bytes);
            let bytes = respelled.as_deref().unwrap_or(bytes);
            let amended = amended(bytes, process, note);
            let bytes = amended.as_deref().unwrap_or(bytes);
            let mut json = serde_json::Deserializer::from_slice(bytes);
            serde_path_to_error::deserialize(&mut json).map_err(|error| {
                let words = error.inner().to_string();
                let path = error.path().to_string();
                let path = if path == "." { "the document".to_owned() } else { path };
                Error::new(Kind::Invalid, format!("{path}: {words}"))
            })
        }
        Err(error) => Err(error).context(|| "it is not JSON"),
    }
}

/// The document with names as the types have them where those differ from the specification's; `None` where it has none
/// of them.
fn respelled(bytes: &[u8]) -> Option<Vec<u8>> {
    const NAMES: [(&str, &str); 2] = [
        ("\"SCHED_FLAG_RESET_ON_FORK\"", "\"SCHED_RESET_ON_FORK\""),
        ("\"SCHED_FLAG_DL_OVERRUN\"", "\"SCHED_FLAG_D_L_OVERRUN\""),
    ];
    let text = std::str::from_utf8(bytes).ok()?;
    let wanted = |text: &str| NAMES.iter().any(|(name, _)| text.contains(name));
    wanted(text).then(|| NAMES.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to)).into_bytes())
}

/// The document with a user where the process at `process` has none, which is root as with the other runtimes, and
/// without capabilities that nobody knows; `None` where there is nothing to change.
fn amended(bytes: &[u8], process: &str, note: &mut dyn FnMut(String)) -> Option<Vec<u8>> {
    let mut document: Value = serde_json::from_slice(bytes).ok()?;
    let process = document.pointer_mut(process)?.as_object_mut()?;
    let before = process.clone();
    let user = process.entry("user").or_insert_with(|| json!({}));
    if let Some(user) = user.as_object_mut() {
        for id in ["uid", "gid"] {
            user.entry(id).or_insert(json!(0));
        }
    }
    let mut unknown = Vec::new();
    let sets = process.get_mut("capabilities").and_then(Value::as_object_mut);
    for set in sets.into_iter().flat_map(|sets| sets.values_mut()).filter_map(Value::as_array_mut) {
        set.retain(|name| match name.as_str() {
            Some(text) if serde_json::from_value::<Capability>(name.clone()).is_err() => {
                unknown.push(text.to_owned());
                false
            }
            _ => true,
        });
    }
    unknown.sort();
    unknown.dedup();
    if *process == before {
        return None;
    }
    if !unknown.is_empty() {
        note(format!("ignoring unknown or unavailable capabilities: {}", unknown.join(", ")));
    }
    serde_json::to_vec(&document).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Result<Spec> {
        super::read(bytes, &mut |_| {})
    }

    fn check(text: &str, expected: &str) {
        let error = read(text.as_bytes()).expect_err(text);
        assert!(error.chain().starts_with(expected), "{}\n{expected}", error.chain());
    }

    #[test]
    fn what_is_wrong_has_its_path() {
        check(
            r#"{"ociVersion":"1.3.0","mounts":[{"destination":"/a"},{"destination":7}]}"#,
            "mounts[1].destination: invalid type: integer `7`, expected path string",
        );
        check(
            r#"{"ociVersion":"1.3.0","linux":{"namespaces":[{"type":"pid"},{"type":"moon"}]}}"#,
            "linux.namespaces[1].type: unknown variant `moon`, expected one of `mount`",
        );
        check(
            r#"{"process":{"cwd":"/","user":{"uid":0,"gid":0},"rlimits":[{"type":"RLIMIT_CORE","soft":1,"hard":1},
            {"type":"RLIMIT_CORE","soft":1,"hard":1}]}}"#,
            "process.rlimits[1]: RLIMIT_CORE is there twice",
        );
        check(r#"{"mounts":[{"destination":""}]}"#, "mounts[0].destination is empty");
        check("{\"a\":", "it is not JSON: EOF while parsing");
    }

    #[test]
    fn flags_of_the_scheduler_have_the_names_of_the_specification() {
        let text = r#"{"cwd":"/","user":{"uid":0,"gid":0},"scheduler":{"policy":"SCHED_OTHER",
            "flags":["SCHED_FLAG_RESET_ON_FORK","SCHED_FLAG_DL_OVERRUN","SCHED_FLAG_RECLAIM"]}}"#;
        let process = read_process(text.as_bytes(), &mut |_| {}).expect("valid");
        let flags = process.scheduler().as_ref().and_then(|scheduler| scheduler.flags().clone());
        assert_eq!(flags.expect("flags").len(), 3);
    }

    #[test]
    fn unknown_capabilities_are_left_out_and_named() {
        let text = r#"{"process":{"cwd":"/","user":{"uid":0,"gid":0},"capabilities":{
            "bounding":["CAP_FLY","CAP_KILL"],"ambient":["CAP_FLY","CAP_DIG"]}}}"#;
        let mut notes = Vec::new();
        let spec = super::read(text.as_bytes(), &mut |note| notes.push(note)).expect("valid");
        let sets = spec.process().as_ref().and_then(|process| process.capabilities().clone()).expect("sets");
        let count =
            |set: &Option<std::collections::HashSet<Capability>>| set.as_ref().map(std::collections::HashSet::len);
        assert_eq!((count(sets.bounding()), count(sets.ambient())), (Some(1), Some(0)));
        assert_eq!(notes, ["ignoring unknown or unavailable capabilities: CAP_DIG, CAP_FLY"]);
    }

    #[test]
    fn a_process_without_a_user_is_roots() {
        let process = read_process(br#"{"cwd":"/","args":["true"],"user":{"gid":7}}"#, &mut |_| {}).expect("valid");
        assert_eq!((process.user().uid(), process.user().gid()), (0, 7));
        assert_eq!(read_process(br#"{"cwd":"/"}"#, &mut |_| {}).expect("valid").user().uid(), 0);
    }

    #[test]
    fn unknown_keys_are_passed_over() {
        assert!(read(br#"{"ociVersion":"1.3.0","moon":{"full":true}}"#).is_ok());
        // However deep: what is passed over is not kept.
        let deep = format!("{{\"x\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(read(deep.as_bytes()).is_ok());
    }
}
