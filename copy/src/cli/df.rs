//! `copy df`: where the space goes.

use layerfs::error::Result;
use layerfs::oci::Platform;
use layerfs::store::{Amount, ImageUsage, Store, Usage};
use serde_json::{Value, json};

use super::images::table;
use super::progress::size;
use super::{Global, print, print_json, template};

/// The arguments of `copy df`.
#[derive(Debug, clap::Args)]
pub(super) struct DfArguments {
    /// Show every image with what it shares
    #[arg(long, short)]
    verbose: bool,
    /// Print a JSON document
    #[arg(long, conflicts_with = "format")]
    json: bool,
    /// Print a line per kind by a template such as `{{.Type}} {{.Size}}`, or `json`
    #[arg(long, value_name = "TEMPLATE", conflicts_with = "verbose")]
    format: Option<String>,
}

impl DfArguments {
    /// Measures and prints.
    pub(super) fn run(&self, global: &Global) -> Result<()> {
        let (store, _) = global.open_store()?;
        let usage = store.usage()?;
        match self.format.as_deref() {
            _ if self.json => print_json(&document(&usage)),
            Some("json") => print_json(&document(&usage)["Kinds"]),
            Some(format) => {
                let lines: Result<Vec<String>> =
                    kinds(&usage).iter().map(|(name, amount)| template::render(format, &kind(name, amount))).collect();
                print(&lines?.concat())
            }
            None if self.verbose => print(&format!("{}\n{}", summary(&usage), images(&store, &usage)?)),
            None => print(&summary(&usage)),
        }
    }
}

fn kinds(usage: &Usage) -> [(&'static str, &Amount); 6] {
    [
        ("Images", &usage.images),
        ("Unpacked layers", &usage.layers),
        ("Containers", &usage.containers),
        ("Build cache", &usage.cache),
        ("Temporary", &usage.temporary),
        ("Unneeded", &usage.unneeded),
    ]
}

fn summary(usage: &Usage) -> String {
    let mut rows = vec![["TYPE", "TOTAL", "ACTIVE", "SIZE", "RECLAIMABLE"].map(str::to_owned).to_vec()];
    let mut all = 0;
    for (name, amount) in kinds(usage) {
        all += amount.bytes;
        let counts = [amount.count.to_string(), amount.active.to_string()];
        rows.push([&[name.to_owned()], &counts[..], &[size(amount.bytes), reclaimable(amount)]].concat());
    }
    rows.push(["All", "", "", &size(all), ""].map(str::to_owned).to_vec());
    table(&rows)
}

/// `12.3 MB (40%)`, as docker shows it.
fn reclaimable(amount: &Amount) -> String {
    match amount.bytes {
        0 => size(0),
        bytes => {
            format!("{} ({}%)", size(amount.reclaimable), u128::from(amount.reclaimable) * 100 / u128::from(bytes))
        }
    }
}

fn images(store: &Store, usage: &Usage) -> Result<String> {
    let head = ["REPOSITORY", "TAG", "IMAGE ID", "SIZE", "SHARED SIZE", "UNIQUE SIZE", "CONTAINERS"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for image in &usage.by_image {
        for name in &image.names {
            let id = match store.resolve(name)? {
                Some(descriptor) => store.summary(&descriptor, &Platform::host())?.map(|summary| summary.id),
                None => None,
            };
            let sizes = [size(image.bytes()), size(image.shared), size(image.unique())];
            let tag = name.tag().unwrap_or("<none>").to_owned();
            let id = id.unwrap_or(image.digest).short();
            rows.push([&[name.repository(), tag, id], &sizes[..], &[image.containers.to_string()]].concat());
        }
    }
    Ok(table(&rows))
}

/// A kind with docker's and podman's words for it.
fn kind(name: &str, amount: &Amount) -> Value {
    json!({
        "Type": name,
        "Total": amount.count,
        "TotalCount": amount.count.to_string(),
        "Active": amount.active,
        "RawSize": amount.bytes,
        "RawReclaimable": amount.reclaimable,
        "Size": size(amount.bytes),
        "Reclaimable": reclaimable(amount),
    })
}

fn document(usage: &Usage) -> Value {
    let kinds: Vec<Value> = kinds(usage).iter().map(|(name, amount)| kind(name, amount)).collect();
    let image = |image: &ImageUsage| {
        json!({
            "Names": image.names.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "Digest": image.digest,
            "Size": image.bytes(),
            "Blobs": image.blobs,
            "Unpacked": image.unpacked,
            "SharedSize": image.shared,
            "UniqueSize": image.unique(),
            "Containers": image.containers,
        })
    };
    json!({ "Kinds": kinds, "Images": usage.by_image.iter().map(image).collect::<Vec<_>>() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_its_line_and_all_add_up() {
        let amount = |bytes, reclaimable| Amount { count: 2, active: 1, bytes, reclaimable };
        let usage = Usage { images: amount(1_500_000, 500_000), containers: amount(500_000, 0), ..Usage::default() };
        let text = summary(&usage);
        assert!(text.contains("Images           2      1       1.50 MB  500 kB (33%)"), "{text}");
        assert!(text.ends_with("All                             2.00 MB\n"), "{text}");
        assert_eq!(document(&usage)["Kinds"][0]["RawReclaimable"], 500_000);
    }
}
