//! Images between the store and a registry, for whoever has the store open already.

use layerfs::archive::Compression;
use layerfs::digest::Digest;
use layerfs::error::Result;
use layerfs::layer::unpack_image;
use layerfs::oci::{Descriptor, Platform};
use layerfs::progress::{Progress, Silent};
use layerfs::reference::Reference;
use layerfs::store::{Image, Store};

use super::{Options, Reach};
use crate::convert::{Changes, Recompress};
use crate::execute::{Execution, Ids, Moved};
use crate::inventory::Platforms;
use crate::location::Location;
use crate::transport::Source;
use crate::transport::store::{PULLED_FROM, StoreSink, StoreSource, Unpack, limits};

/// Copies an image from a registry into the store under its own name. Of an image for several platforms the one in
/// `options.platforms` is taken, by default the host's.
///
/// With `unpack` the layers are laid down while they arrive, ready to be mounted.
///
/// # Errors
/// As for [`transfer`](super::transfer).
pub fn pull(
    store: &Store,
    name: &Reference,
    unpack: bool,
    options: &Options,
    progress: &dyn Progress,
) -> Result<Descriptor> {
    let name = name.clone().or_latest();
    let reach = Reach::new(options, progress)?;
    let location = Location::Registry(name.clone());
    let signed = reach.check_policy(&location)?;
    let platforms = match &options.platforms {
        Platforms::Auto => Platforms::Host,
        chosen => chosen.clone(),
    };
    let unpack = if unpack { Unpack::Now } else { Unpack::Later };
    let from = reach.registry_source(&name)?;
    reach.check_signed(&location, &from, &signed)?;
    let pin = store.pin()?;
    if let Some((known, image)) = stored(store, &name, &platforms)? {
        // One cheap question tells whether anything is new: registries do not count it as a pull.
        let origin = known.annotation(PULLED_FROM).and_then(|digest| digest.parse::<Digest>().ok());
        let origin = origin.unwrap_or(known.digest);
        if name.digest() == Some(origin) || from.head()?.is_some_and(|head| head.digest == origin) {
            if unpack == Unpack::Now {
                unpack_image(store, &image, &limits()?)?;
            }
            return Ok(known);
        }
    }
    drop(pin);
    let root = from.root()?;
    let sink = StoreSink::new(store, vec![name], Some(root.0.digest), unpack)?;
    let changes = Changes { recompress: Recompress::Never, format: options.format };
    let done = reach.copy(&from, &sink, &platforms, &changes, None)?;
    Ok(sink.target(&done.root))
}

/// What the store has under `name`, if it is complete and of the one platform that is wanted.
fn stored(store: &Store, name: &Reference, platforms: &Platforms) -> Result<Option<(Descriptor, Image)>> {
    let wanted = match platforms {
        Platforms::Host => Platform::host(),
        Platforms::One(platform) => platform.clone(),
        _ => return Ok(None),
    };
    let Some(known) = store.resolve(name)? else { return Ok(None) };
    // What cannot be read here is fetched anew.
    let image = store.image(&known, &wanted).ok().filter(|image| {
        let complete = image.layers().all(|(layer, _)| store.blob_size(&layer.digest) == Some(layer.size));
        complete && image.config.platform().serves(&wanted).is_some()
    });
    Ok(image.map(|image| (known, image)))
}

/// What a [`push`] did.
#[derive(Clone, Debug, PartialEq)]
pub struct Pushed {
    /// The manifest or index in the registry. Its digest differs from that in the store where layers were compressed.
    pub root: Descriptor,
    /// What moved; `None` where the registry had the image already.
    pub moved: Option<Moved>,
}

/// Copies an image of the store to a registry. Layers that lie uncompressed are compressed once and kept.
///
/// # Errors
/// As for [`transfer`](super::transfer).
pub fn push(
    store: &Store,
    source: &Descriptor,
    name: &Reference,
    options: &Options,
    progress: &dyn Progress,
) -> Result<Pushed> {
    push_to(store, source, name.clone().or_latest(), options, progress)
}

/// The same without a tag: the image can be had there by its digest alone.
///
/// # Errors
/// As for [`transfer`](super::transfer).
pub fn push_untagged(
    store: &Store,
    source: &Descriptor,
    name: &Reference,
    options: &Options,
    progress: &dyn Progress,
) -> Result<Pushed> {
    push_to(store, source, name.repository().parse()?, options, progress)
}

/// Copies one blob of the store to the repository of `name`, unless it is there: what an image needs that is pushed
/// later.
///
/// # Errors
/// As for [`transfer`](super::transfer).
pub fn push_blob(store: &Store, blob: &Descriptor, name: &Reference, options: &Options) -> Result<()> {
    let reach = Reach::new(options, &Silent)?;
    let from = StoreSource::new(store, blob)?;
    let sink = reach.sink(&Location::Registry(name.repository().parse()?), None)?;
    if sink.existing(std::slice::from_ref(blob))? == [true] {
        return Ok(());
    }
    let (source, ids) = (&from, Ids::default());
    let (retries, pace) = (options.retries, reach.pace.as_ref());
    let execution = Execution { source, sink: &*sink, progress: &Silent, ids: &ids, parallel: 1, retries, pace };
    execution.put(blob, None).map(drop)
}

fn push_to(
    store: &Store,
    source: &Descriptor,
    name: Reference,
    options: &Options,
    progress: &dyn Progress,
) -> Result<Pushed> {
    let reach = Reach::new(options, progress)?;
    let from = StoreSource::new(store, source)?;
    let sink = reach.sink(&Location::Registry(name), None)?;
    let recompress = options.recompress.unwrap_or(Recompress::Plain(Compression::GZIP));
    let changes = Changes { recompress, format: options.format };
    let platforms = match &options.platforms {
        Platforms::Auto => Platforms::All,
        chosen => chosen.clone(),
    };
    let done = reach.copy(&from, &*sink, &platforms, &changes, Some(store))?;
    Ok(Pushed { root: done.root, moved: done.moved })
}
