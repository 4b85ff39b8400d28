//! Words about an image in its documents, as one output has them and others do not.

use layerfs::error::Result;
use layerfs::oci::{Descriptor, Document};
use layerfs::store::Store;

use crate::options::{Annotation, Level};

/// The image with more annotations: new documents where there are any, else the image itself.
///
/// # Errors
/// The store cannot be read or written.
pub(super) fn annotate(store: &Store, root: &Descriptor, annotations: &[Annotation]) -> Result<Descriptor> {
    if annotations.is_empty() {
        return Ok(root.clone());
    }
    let of = |level: Level| annotations.iter().filter(move |one| one.level == level);
    let bytes = store.read_document(root)?;
    let bytes = match Document::parse(&bytes, Some(&root.media_type))? {
        Document::Manifest(mut manifest) => {
            let own = of(Level::Manifest).map(|one| (one.key.clone(), one.value.as_str().into()));
            manifest.annotations.extend(own);
            manifest.to_bytes()
        }
        Document::Index(mut index) => {
            for child in &mut index.manifests {
                let new = annotate(store, &Descriptor::new(&child.media_type, child.digest, child.size), annotations)?;
                (child.digest, child.size) = (new.digest, new.size);
                let own = of(Level::ManifestDescriptor).map(|one| (one.key.clone(), one.value.as_str().into()));
                child.annotations.extend(own);
            }
            let own = of(Level::Index).map(|one| (one.key.clone(), one.value.as_str().into()));
            index.annotations.extend(own);
            index.to_bytes()
        }
    };
    store.put_blob(&bytes)?;
    Ok(Descriptor { annotations: root.annotations.clone(), ..Descriptor::of(&root.media_type, &bytes) })
}
