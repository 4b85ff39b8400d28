//! `spec`: a config.json to begin with.

use layerfs::error::{Context, Error, Kind, Result};
use oci_spec::runtime::{
    Capability, LinuxCapabilities, LinuxIdMappingBuilder, LinuxNamespace, LinuxNamespaceType, Spec,
};

use super::arguments::SpecArguments;
use crate::cgroup::hierarchy::Hierarchy;
use crate::spec;

/// Writes it, where there is none yet.
pub(super) fn write(arguments: &SpecArguments) -> Result<()> {
    let path = arguments.bundle.join(&arguments.file);
    if path.exists() {
        return Err(Error::new(Kind::Conflict, format!("`{}` exists already", path.display()))
            .hint("remove it first, or choose another name by --file"));
    }
    let text = serde_json::to_string_pretty(&make(arguments.rootless)?).context(|| "write JSON")?;
    std::fs::write(&path, text).at("write", &path)
}

/// What a frame begins with: little, to be added to.
fn few_capabilities() -> LinuxCapabilities {
    let few = || Some([Capability::AuditWrite, Capability::Kill, Capability::NetBindService].into_iter().collect());
    let mut sets = LinuxCapabilities::default();
    sets.set_bounding(few()).set_effective(few()).set_permitted(few()).set_inheritable(None).set_ambient(None);
    sets
}

fn make(rootless: bool) -> Result<Spec> {
    let facts = spec::HostFacts {
        rootless,
        architecture: layerfs::oci::Platform::host().architecture,
        kernel: crate::host::kernel(),
        ..spec::HostFacts::default()
    };
    let mut frame = spec::base_spec(&facts)?;
    if let Some(root) = frame.root_mut() {
        root.set_path("rootfs".into()).set_readonly(Some(true));
    }
    frame.set_hostname(Some("layerfs".to_owned()));
    if let Some(process) = frame.process_mut() {
        process.set_args(Some(vec!["sh".to_owned()])).set_terminal(Some(true)).set_no_new_privileges(Some(true));
        process.set_capabilities(Some(few_capabilities()));
        process.env_mut().get_or_insert_default().push("TERM=xterm".to_owned());
    }
    if let Some(linux) = frame.linux_mut() {
        linux.set_seccomp(None);
        // On v1 tools look for a container's cgroup by the path that its own processes see.
        if !crate::cgroup::hierarchy::probe()?.iter().any(Hierarchy::is_unified) {
            let namespaces = linux.namespaces_mut().get_or_insert_default();
            namespaces.retain(|namespace| namespace.typ() != LinuxNamespaceType::Cgroup);
        }
    }
    if rootless && let Some(linux) = frame.linux_mut() {
        // Who asks is the container's root, and nobody else is in it.
        let only = |id: u32| {
            let mapping = LinuxIdMappingBuilder::default().container_id(0u32).host_id(id).size(1u32).build();
            mapping
                .map(|mapping| Some(vec![mapping]))
                .map_err(|error| Error::new(Kind::System, "map the caller's id").because(error))
        };
        linux.set_uid_mappings(only(rustix::process::geteuid().as_raw())?);
        linux.set_gid_mappings(only(rustix::process::getegid().as_raw())?);
        let mut namespaces = linux.namespaces().clone().unwrap_or_default();
        if !namespaces.iter().any(|namespace| namespace.typ() == LinuxNamespaceType::User) {
            let mut user = LinuxNamespace::default();
            user.set_typ(LinuxNamespaceType::User);
            namespaces.push(user);
        }
        linux.set_namespaces(Some(namespaces));
        linux.set_resources(None);
    }
    Ok(frame)
}
