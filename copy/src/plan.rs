//! What has to move: an inventory of the source and one of the destination in, a [`Plan`] out. No I/O.

use std::collections::HashSet;

use layerfs::digest::Digest;
use layerfs::oci::Descriptor;

use crate::inventory::Inventory;

/// What is known about the destination.
#[derive(Clone, Debug, Default)]
pub struct Holdings {
    /// Blobs it has already.
    pub present: HashSet<Digest>,
    /// A repository on the same registry that has every blob of the source: they can be mounted from there.
    pub sister: Option<String>,
    /// What becomes of layers that may not be distributed and say where else they are.
    pub foreign: Foreign,
}

/// What becomes of layers with `urls` whose media type says that they may not be distributed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Foreign {
    /// They stay where they are; the manifest names the place. Registries get none of their bytes.
    #[default]
    Leave,
    /// They are copied like others.
    Take,
}

/// How one blob gets to the destination.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// The blob.
    pub blob: Descriptor,
    /// The repository to try to mount it from first.
    pub mount_from: Option<String>,
}

/// All blobs that have to move, each once.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// The steps, the largest first: the last transfers to end are then short ones.
    pub steps: Vec<Step>,
    /// Blobs that are there already.
    pub present: usize,
    /// Layers that stay where they are.
    pub left: Vec<Descriptor>,
}

impl Plan {
    /// Bytes of all steps.
    pub fn bytes(&self) -> u64 {
        self.steps.iter().map(|step| step.blob.size).sum()
    }
}

/// Plans the move of everything in `inventory` that the destination lacks.
pub fn plan(inventory: &Inventory, holdings: &Holdings) -> Plan {
    let mut plan = Plan::default();
    for blob in &inventory.blobs {
        if holdings.present.contains(&blob.digest) {
            plan.present += 1;
        } else if holdings.foreign == Foreign::Leave && is_foreign(blob) {
            plan.left.push(blob.clone());
        } else {
            plan.steps.push(Step { blob: blob.clone(), mount_from: holdings.sister.clone() });
        }
    }
    plan.steps.sort_by_key(|step| std::cmp::Reverse(step.blob.size));
    plan
}

/// image-spec "non-distributable layers", and docker's foreign layers.
fn is_foreign(blob: &Descriptor) -> bool {
    let kind = &blob.media_type;
    !blob.urls.is_empty() && (kind.contains(".nondistributable.") || kind.contains(".foreign."))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blob(content: &str, media_type: &str) -> Descriptor {
        Descriptor { size: content.len() as u64, ..Descriptor::of(media_type, content.as_bytes()) }
    }

    fn check(holdings: &Holdings, expected: &[(&str, Option<&str>)], present: usize, left: usize) {
        let mut foreign = blob("windows", "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip");
        foreign.urls.push("https://example.com/x".into());
        let contents = ["a", "ccc", "bb"];
        let blobs = contents.iter().map(|content| blob(content, "x")).chain([foreign]).collect();
        let plan = plan(&Inventory { levels: Vec::new(), blobs }, holdings);
        let found: Vec<(Digest, Option<&str>)> =
            plan.steps.iter().map(|step| (step.blob.digest, step.mount_from.as_deref())).collect();
        let expected: Vec<(Digest, Option<&str>)> =
            expected.iter().map(|(content, from)| (Digest::of(content.as_bytes()), *from)).collect();
        assert_eq!((found, plan.present, plan.left.len()), (expected, present, left));
    }

    #[test]
    fn what_is_missing_moves_largest_first() {
        check(&Holdings::default(), &[("ccc", None), ("bb", None), ("a", None)], 0, 1);
        let some = Holdings { present: HashSet::from([Digest::of(b"ccc")]), ..Holdings::default() };
        check(&some, &[("bb", None), ("a", None)], 1, 1);
        let sister = Holdings { sister: Some("s".into()), foreign: Foreign::Take, ..Holdings::default() };
        check(&sister, &[("windows", Some("s")), ("ccc", Some("s")), ("bb", Some("s")), ("a", Some("s"))], 0, 0);
    }
}
