//! `spec`: a config.json to begin with.

use layerfs::error::{Context, Error, Kind, Result};
use oci_spec::runtime::{LinuxIdMappingBuilder, LinuxNamespace, LinuxNamespaceType, Spec};

use super::arguments::SpecArguments;
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
    if let Some(process) = frame.process_mut() {
        process.set_args(Some(vec!["sh".to_owned()])).set_terminal(Some(true));
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
