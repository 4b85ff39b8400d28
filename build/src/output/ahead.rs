//! What can be done for the outputs before the build is done: layers are compressed, and sent to registries, while
//! later steps run.
//!
//! Nothing here decides anything. A layer that was compressed is found by its identity when the output is written, one that
//! was sent is found in the registry; what could not be done early is done then, and its error told.

use std::sync::mpsc::Receiver;

use copy::{Options, Recompress};
use layerfs::archive::Compression;
use layerfs::oci::{Descriptor, media_type};
use layerfs::reference::Reference;
use layerfs::store::Store;

use super::{Output, Push};
use crate::cache::Layer;
use crate::options::BuildOptions;
use crate::schedule::Cancel;

/// Smaller layers are not worth a connection of their own, in bytes.
const WORTH_SENDING: u64 = 1 << 20;

/// What the outputs of a build want of each layer.
pub(crate) struct Ahead {
    forms: Vec<Form>,
}

struct Form {
    compression: Compression,
    names: Vec<Reference>,
    options: Options,
}

impl Ahead {
    /// What `options` ask for; `None` where no output takes single layers in another form than they have.
    pub(crate) fn new(options: &BuildOptions) -> Option<Self> {
        // One layer is made of all of them in the end.
        if options.squash {
            return None;
        }
        let form = |output: &Output| {
            let (packing, names) = match output {
                Output::Image { names, push, packing, .. } => {
                    if *push == Push::No && !options.push {
                        return None;
                    }
                    (packing, options.tags.iter().chain(names).cloned().collect())
                }
                Output::Oci { packing, .. } => (packing, Vec::new()),
                _ => return None,
            };
            let compression = match packing.compression {
                None => Compression::GZIP,
                Some(Recompress::Plain(compression) | Recompress::All(compression)) => compression,
                Some(Recompress::Never) => Compression::None,
                // Of these forms the store keeps none.
                Some(Recompress::Chunked { .. }) => return None,
            };
            let nothing = names.is_empty() && compression == Compression::None;
            (!nothing).then(|| Form { compression, names, options: options.registry.clone() })
        };
        let forms: Vec<Form> = options.outputs.iter().filter_map(form).collect();
        (!forms.is_empty()).then_some(Self { forms })
    }

    /// Works until no more layers come.
    pub(crate) fn work(&self, store: &Store, layers: &Receiver<Layer>, cancel: &Cancel) {
        while let Ok(layer) = layers.recv() {
            for form in self.forms.iter().filter(|_| !cancel.is_stopped()) {
                let plain = Descriptor::new(media_type::OCI_LAYER, layer.diff_id.0, layer.size);
                let Ok(blob) = copy::compress_layer(store, &plain, layer.diff_id, form.compression) else { continue };
                for name in form.names.iter().filter(|_| blob.size >= WORTH_SENDING) {
                    // It is sent with the image otherwise.
                    let _ = copy::push_blob(store, &blob, name, &form.options);
                }
            }
        }
    }
}
