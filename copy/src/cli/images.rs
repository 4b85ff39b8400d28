//! The store's images: `images`, `rmi`, `tag`.

use std::collections::HashSet;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use layerfs::digest::Digest;
use layerfs::error::{Context, Error, Kind, Result};
use layerfs::reference::Reference;
use layerfs::store::{Listed, Store};
use serde_json::json;

use super::progress::size;
use super::{Global, print, print_json};
use crate::time;

/// The arguments of `copy images`.
#[derive(Debug, clap::Args)]
pub(super) struct ImagesArguments {
    /// Only images whose name begins so
    name: Option<String>,
    /// Print a JSON document
    #[arg(long)]
    json: bool,
    /// Show manifest digests
    #[arg(long)]
    digests: bool,
    /// Show ids in full
    #[arg(long)]
    no_trunc: bool,
}

/// One name of the store.
struct Row {
    name: Reference,
    digest: Digest,
    id: Digest,
    created: Option<String>,
    bytes: u64,
}

impl ImagesArguments {
    /// Lists the images.
    pub(super) fn run(&self, global: &Global) -> Result<()> {
        let (store, _) = global.open_store()?;
        let wanted = |Listed { name, .. }: &Listed| {
            let begins = |wanted: &String| name.to_string().starts_with(wanted) || name.familiar().starts_with(wanted);
            self.name.as_ref().is_none_or(begins)
        };
        let rows: Vec<Row> = store.listed()?.into_iter().filter(wanted).map(row).collect();
        if self.json {
            let list: Vec<_> = rows
                .iter()
                .map(|row| {
                    json!({
                        "name": row.name.to_string(),
                        "id": row.id,
                        "digest": row.digest,
                        "created": row.created,
                        "size": row.bytes,
                    })
                })
                .collect();
            return print_json(&list);
        }
        if global.quiet {
            let mut seen = HashSet::new();
            let ids = rows.iter().filter(|row| seen.insert(row.id)).map(|row| format!("{}\n", self.id(row.id)));
            return print(&ids.collect::<String>());
        }
        print(&table(&self.cells(&rows)))
    }

    fn id(&self, id: Digest) -> String {
        if self.no_trunc { id.to_string() } else { id.short() }
    }

    fn cells(&self, rows: &[Row]) -> Vec<Vec<String>> {
        let mut head = vec!["REPOSITORY", "TAG", "DIGEST", "IMAGE ID", "CREATED", "SIZE"];
        if !self.digests {
            head.remove(2);
        }
        let mut cells = vec![head.into_iter().map(str::to_owned).collect::<Vec<_>>()];
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs() as i64);
        for row in rows {
            let age = row.created.as_deref().and_then(time::parse_rfc3339);
            // A reproducible image often states the year 1.
            let age = age.filter(|created| *created >= 0).map(|created| time::ago(now - created));
            let mut line = vec![row.name.repository(), row.name.tag().unwrap_or("<none>").to_owned()];
            if self.digests {
                line.push(row.digest.to_string());
            }
            line.extend([self.id(row.id), age.unwrap_or_else(|| "N/A".to_owned()), size(row.bytes)]);
            cells.push(line);
        }
        cells
    }
}

fn row(Listed { name, target, summary }: Listed) -> Row {
    let digest = target.digest;
    match summary {
        Some(image) => Row { name, digest, id: image.id, created: image.created, bytes: image.bytes },
        // An image without this machine's platform, or an artifact, is listed by what is known of it.
        None => Row { name, digest, id: digest, created: None, bytes: target.size },
    }
}

/// Columns as wide as their widest cell.
pub(super) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        format!("{}\n", cells.join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}

/// The arguments of `copy rmi`.
#[derive(Debug, clap::Args)]
pub(super) struct RmiArguments {
    /// Names or ids of images
    #[arg(required_unless_present = "all")]
    images: Vec<String>,
    /// Remove all names of an image given by its id; pass over what does not exist
    #[arg(long, short)]
    force: bool,
    /// Remove all images
    #[arg(long, short, conflicts_with = "images")]
    all: bool,
}

impl RmiArguments {
    /// Takes names away; what nobody needs any more is freed by a program in the background.
    pub(super) fn run(&self, global: &Global) -> Result<()> {
        let (store, _) = global.open_store()?;
        let mut names = Vec::new();
        if self.all {
            names.extend(store.refs()?.into_iter().map(|(name, _)| name));
        }
        // All are found before any is removed: a mistyped name removes nothing.
        for text in &self.images {
            match find(&store, text, self.force) {
                Ok(found) => names.extend(found),
                Err(error) if error.kind() == Kind::NotFound && self.force => {}
                Err(error) => return Err(error),
            }
        }
        let mut changed = false;
        let mut output = String::new();
        for name in names {
            if store.untag(&name)? {
                changed = true;
                output.push_str(&format!("Untagged: {name}\n"));
            }
        }
        if changed {
            let published = store.publish_index();
            sweep_later(&store)?;
            match published {
                // The disk is full, and the one who sweeps writes it once there is room.
                Err(error) if error.is_out_of_space() => {}
                result => result?,
            }
        }
        print(&output)
    }
}

/// The names to take away for one argument.
fn find(store: &Store, text: &str, force: bool) -> Result<Vec<Reference>> {
    let found = store.find(text)?;
    if let Some(name) = &found.name
        && text.parse::<Reference>().is_ok_and(|asked| *name == asked.clone().or_latest() || is_local(name, text))
    {
        return Ok(vec![name.clone()]);
    }
    let same = store.refs()?.into_iter().filter(|(_, descriptor)| descriptor.digest == found.descriptor.digest);
    let names: Vec<Reference> = same.map(|(name, _)| name).collect();
    if names.len() > 1 && !force {
        let list: Vec<String> = names.iter().map(ToString::to_string).collect();
        return Err(Error::new(
            Kind::Conflict,
            format!("image `{text}` has {} names: {}", names.len(), list.join(", ")),
        )
        .hint("remove them one by one, or all with --force"));
    }
    Ok(names)
}

/// `app` may have been found as `localhost/app`.
fn is_local(name: &Reference, text: &str) -> bool {
    format!("localhost/{text}").parse::<Reference>().is_ok_and(|local| local.or_latest() == *name)
}

/// Frees space without letting the user wait. `copy gc` does the same and waits.
fn sweep_later(store: &Store) -> Result<()> {
    let program = std::env::current_exe().context(|| "find this program's own file")?;
    let mut command = Command::new(program);
    command.args(["gc", "--quiet", "--unless-queued"]).arg("--store").arg(store.root());
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    // Whether it can be started does not matter now: the next collection frees the same.
    drop(command.spawn());
    Ok(())
}

/// The arguments of `copy tag`.
#[derive(Debug, clap::Args)]
pub(super) struct TagArguments {
    /// An image of the store, by name or id; with docker:// an image in a registry
    image: String,
    /// Its new names; in a registry tags will do
    #[arg(required = true)]
    names: Vec<String>,
    #[command(flatten)]
    access: super::arguments::Access,
}

impl TagArguments {
    /// Gives the names.
    pub(super) fn run(&self, global: &Global) -> Result<()> {
        if self.image.starts_with("docker://")
            && let crate::Location::Registry(image) = self.image.parse()?
        {
            return super::repositories::tag(&image, &self.names, &self.access, global);
        }
        let names: Vec<Reference> = self.names.iter().map(|name| name.parse()).collect::<Result<_>>()?;
        let (store, _) = global.open_store()?;
        let _pin = store.pin()?;
        let found = store.find(&self.image)?;
        for name in &names {
            if name.digest().is_some_and(|digest| digest != found.descriptor.digest) {
                return Err(Error::new(Kind::Usage, format!("`{name}` names another image by its digest")));
            }
            store.tag(&name.clone().or_latest(), &found.descriptor)?;
        }
        store.publish_index()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let cell = |text: &str| text.to_owned();
        let rows = [vec![cell("NAME"), cell("SIZE")], vec![cell("a"), cell("10 MB")]];
        assert_eq!(table(&rows), "NAME  SIZE\na     10 MB\n");
    }
}
