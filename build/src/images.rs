//! Base images: looked for in the store, else pulled.

use copy::{Location, Place, Selector};
use layerfs::digest::Digest;
use layerfs::error::{Error, Kind, Result};
use layerfs::oci::Platform;
use layerfs::reference::Reference;
use layerfs::store::{Image, Store};

use crate::graph::BaseImage;
use crate::options::Pull;
use crate::progress::{End, Progress, Reporter};

/// Finds an image for its platform.
///
/// # Errors
/// It is in neither place; the error says where was looked.
pub(crate) fn find(
    store: &Store,
    base: &BaseImage,
    pull: Pull,
    registry: &copy::Options,
    progress: &Progress,
) -> Result<Image> {
    let id = progress.start(&format!("[internal] load {}", base.name));
    let found = find_or_pull(store, base, pull, registry, &Reporter::new(progress, id));
    match &found {
        Ok((_, end)) => progress.end(id, end),
        Err(error) => progress.end(id, &End::Failed(error.chain())),
    }
    found.map(|(image, _)| image)
}

fn find_or_pull(
    store: &Store,
    base: &BaseImage,
    pull: Pull,
    registry: &copy::Options,
    reporter: &Reporter<'_>,
) -> Result<(Image, End)> {
    let platform: Platform = base.platform.parse()?;
    if let Some(place) = base.name.strip_prefix(LAYOUT) {
        return from_layout(store, place, &platform, registry, reporter).map(|image| (image, End::Done));
    }
    let local = in_store(store, base, &platform);
    let own_host = |name: &Reference| name.host() == "localhost";
    match (&local, pull) {
        (Ok(_), Pull::Missing | Pull::Never) => return local.map(|image| (image, End::Cached)),
        (Err(error), _) if !matches!(error.kind(), Kind::NotFound) => return local.map(|image| (image, End::Cached)),
        (Err(_), Pull::Never) => {
            return Err(Error::new(Kind::NotFound, format!("base image `{}` is not in the store", base.name))
                .hint("leave out --pull=never to have it pulled"));
        }
        _ => {}
    }
    let name: Reference = base.name.parse()?;
    let name = name.or_latest();
    if own_host(&name) {
        // Names of images that were built here; no registry is meant.
        return match local {
            Ok(image) => Ok((image, End::Cached)),
            Err(_) => Err(Error::new(
                Kind::NotFound,
                format!("base image `{}` is not in the store `{}`", base.name, store.root().display()),
            )
            .hint(format!("build it first (`build -t {} …`); `copy images` lists what is there", base.name))),
        };
    }
    let options = copy::Options { platforms: copy::Platforms::One(platform.clone()), ..registry.clone() };
    match copy::pull(store, &name, true, &options, reporter) {
        Ok(descriptor) => Ok((store.image(&descriptor, &platform)?, End::Done)),
        Err(error) => {
            let hint = error.advice().map(str::to_owned);
            let looked = format!(
                "base image `{}` is neither in the store `{}` nor to be had from {}",
                base.name,
                store.root().display(),
                name.host()
            );
            let told = Error::new(error.kind(), looked).because(error);
            Err(told
                .hint(hint.unwrap_or_else(|| "check the name; `copy images` lists what is in the store".to_owned())))
        }
    }
}

/// What the name of an image begins with that lies in a layout.
const LAYOUT: &str = "oci-layout://";

/// Takes an image out of a layout: `PATH[:TAG][@DIGEST]`.
fn from_layout(
    store: &Store,
    place: &str,
    platform: &Platform,
    registry: &copy::Options,
    reporter: &Reporter<'_>,
) -> Result<Image> {
    let (path, image) = match place.rsplit_once('@') {
        // A tag before a digest says nothing more.
        Some((path, digest)) => {
            (path.rsplit_once(':').map_or(path, |(path, _)| path), Selector::Named(digest.to_owned()))
        }
        None => match place.rsplit_once(':') {
            Some((path, tag)) if !tag.contains('/') => (path, Selector::Named(tag.to_owned())),
            _ => (place, Selector::Only),
        },
    };
    let source = Location::Layout(Place { path: path.into(), image });
    let name: Reference = format!("localhost/oci-layout/{}", &Digest::of(place.as_bytes()).hex()[..16]).parse()?;
    let name = name.or_latest();
    let options = copy::Options { platforms: copy::Platforms::All, ..registry.clone() };
    let done = copy::transfer(&source, &Location::Store(name.to_string()), Some(store), &options, reporter)?;
    store.image(&done.root, platform)
}

/// An image of the store that runs on `platform`; `NotFound` where there is none.
fn in_store(store: &Store, base: &BaseImage, platform: &Platform) -> Result<Image> {
    let found = store.find(&base.name)?;
    let image = store.image(&found.descriptor, platform)?;
    match image.config.platform().serves(platform) {
        Some(_) => Ok(image),
        None => Err(Error::new(
            Kind::NotFound,
            format!("image `{}` in the store is for {}, not {platform}", base.name, image.config.platform()),
        )),
    }
}
