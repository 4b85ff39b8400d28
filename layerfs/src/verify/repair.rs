//! Making again what can be made from what is sound.

use std::collections::BTreeSet;

use super::{Check, Outcome};
use crate::digest::{DiffId, Digest};
use crate::error::Result;
use crate::layer::check::{self, Damage};
use crate::store::Store;

/// The small repairs: one call and what it did.
pub(super) trait Cure {
    /// Does it where repairs are wanted.
    fn cure(&self, how: impl FnOnce(&Store) -> Result<()>, words: &str) -> Result<Outcome>;
}

impl Cure for Check<'_> {
    fn cure(&self, how: impl FnOnce(&Store) -> Result<()>, words: &str) -> Result<Outcome> {
        if !self.options.repair {
            return Ok(Outcome::Found);
        }
        how(self.store)?;
        Ok(Outcome::Repaired(words.to_owned()))
    }
}

impl Check<'_> {
    pub(super) fn cannot_mend(&self, why: &str) -> Outcome {
        if self.options.repair { Outcome::Remains(why.to_owned()) } else { Outcome::Found }
    }

    /// A name's file from `index.json`, which says the same for other programs; else the name is given up.
    pub(super) fn mend_name(&self, file: &str, name: &str) -> Result<Outcome> {
        if !self.options.repair {
            return Ok(Outcome::Found);
        }
        let listed = self.store.listed_in_index(name).filter(|descriptor| self.store.read_document(descriptor).is_ok());
        self.store.discard(&self.store.root().join("refs").join(file))?;
        match (listed, name.parse()) {
            (Some(descriptor), Ok(reference)) => {
                self.store.tag(&reference, &descriptor)?;
                Ok(Outcome::Repaired("written again from index.json".to_owned()))
            }
            _ => Ok(Outcome::Remains("removed; what it named is not known any more".to_owned())),
        }
    }

    /// A blob from the layer that was unpacked from it, where that is ours; else it goes, so that a pull brings it.
    pub(super) fn mend_blob(&mut self, digest: Digest, users: &BTreeSet<String>) -> Result<Outcome> {
        if !self.options.repair {
            return Ok(Outcome::Found);
        }
        self.store.discard(&self.store.blob_path(&digest))?;
        let diff_id = DiffId(digest);
        if self.store.has_layer(diff_id)? && check::packs_to_itself(self.store, diff_id)? {
            check::pack_again(self.store, diff_id)?;
            self.needs.sound.extend(self.store.blob_size(&digest).map(|bytes| (digest, bytes)));
            return Ok(Outcome::Repaired("packed again from the unpacked layer".to_owned()));
        }
        if users.is_empty() {
            return Ok(Outcome::Repaired("removed; nothing needs it".to_owned()));
        }
        let pulls: Vec<String> =
            users.iter().filter(|name| can_be_pulled(name)).map(|n| format!("`copy pull {n}`")).collect();
        Ok(Outcome::Remains(match pulls.as_slice() {
            [] => "removed; the image has to be built or copied again".to_owned(),
            pulls => format!("removed; {} brings it again", pulls.join(" or ")),
        }))
    }

    /// A layer or shim by what was made to compare it with, unless a container runs on it.
    pub(super) fn mend_layer(&self, diff_id: DiffId, damage: Damage) -> Result<Outcome> {
        if !self.options.repair {
            return Ok(Outcome::Found);
        }
        if self.needs.running.contains(&diff_id) {
            return Ok(Outcome::Remains("a container runs on it; stop it first".to_owned()));
        }
        damage.replacement.put(self.store)?;
        Ok(Outcome::Repaired("unpacked again".to_owned()))
    }
}

/// `localhost` alone is where images are that came from no registry.
fn can_be_pulled(name: &str) -> bool {
    !name.starts_with("container ") && !name.starts_with("localhost/")
}
