//! Bake files as blocks of attributes, whether they were written as HCL or as JSON.

use hcl_edit::expr::Expression;
use hcl_edit::structure::{Body, Structure};
use hcl_edit::{Span as _, parser};
use layerfs::error::{Error, Result};

use crate::dockerfile::source::{Source, Span};
use crate::dockerfile::{Fault, ParseError};

/// A file's blocks and the attributes outside of any.
#[derive(Debug)]
pub(super) struct File {
    pub(super) blocks: Vec<Block>,
    pub(super) attributes: Vec<Attribute>,
}

/// A block: `target "app" { … }`.
#[derive(Debug)]
pub(super) struct Block {
    pub(super) kind: String,
    /// Its label; empty where it has none.
    pub(super) label: String,
    pub(super) attributes: Vec<Attribute>,
    pub(super) blocks: Vec<Block>,
    pub(super) place: Place,
}

/// `name = expression`.
#[derive(Clone, Debug)]
pub(super) struct Attribute {
    pub(super) name: String,
    pub(super) value: Expression,
    pub(super) place: Place,
    /// Errors inside the expression are told about the whole attribute: JSON strings have no places of their own.
    pub(super) whole: bool,
}

/// A part of a file.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) source: Source,
    pub(super) span: Span,
}

impl Place {
    /// An error about this part.
    pub(super) fn error(&self, message: impl Into<String>) -> Error {
        ParseError::new(&self.source, self.span, message).into()
    }

    /// An error about this part, with a hint.
    pub(super) fn fault(&self, fault: Fault) -> Error {
        fault.at(&self.source, self.span).into()
    }
}

/// The blocks that a bake file may have.
const BLOCKS: [&str; 4] = ["function", "group", "target", "variable"];

/// The attributes of a block of each kind; what else is there is an error, for it would do nothing.
fn known(kind: &str) -> Option<&'static [&'static str]> {
    Some(match kind {
        "function" => &["params", "result", "variadic_params"],
        "group" => &["description", "targets"],
        "variable" => &["default", "description", "type"],
        "validation" => &["condition", "error_message"],
        "target" => super::decode::ATTRIBUTES,
        _ => return None,
    })
}

/// Reads HCL.
///
/// # Errors
/// The text does not follow the grammar, or has blocks that bake files do not have.
pub(super) fn parse(text: &str, name: &str) -> Result<File> {
    let source = Source::new(name, text.as_bytes());
    let body = parser::parse_body(text).map_err(|error| {
        let at = error.location().offset().min(text.len());
        ParseError::new(&source, Span { start: at, end: at + 1 }, error.message().replace('\n', "; "))
    })?;
    let (attributes, blocks) = body_of(&source, &body, None)?;
    Ok(File { blocks, attributes })
}

fn body_of(source: &Source, body: &Body, within: Option<&str>) -> Result<(Vec<Attribute>, Vec<Block>)> {
    let (mut attributes, mut blocks): (Vec<Attribute>, Vec<Block>) = (Vec::new(), Vec::new());
    for structure in body {
        let place = |span: Option<std::ops::Range<usize>>| Place {
            source: source.clone(),
            span: span.map(Span::from).unwrap_or_default(),
        };
        match structure {
            Structure::Attribute(attribute) => attributes.push(Attribute {
                name: attribute.key.as_str().to_owned(),
                value: attribute.value.clone(),
                place: place(attribute.key.span()),
                whole: false,
            }),
            Structure::Block(block) => {
                let kind = block.ident.as_str().to_owned();
                let place = place(block.ident.span());
                let [label] = &block.labels[..] else {
                    if block.labels.is_empty() && within == Some("variable") && kind == "validation" {
                        let (attributes, blocks_in) = body_of(source, &block.body, Some("validation"))?;
                        blocks.push(Block { kind, label: String::new(), attributes, blocks: blocks_in, place });
                        continue;
                    }
                    if within.is_none() && BLOCKS.contains(&kind.as_str()) {
                        let count = block.labels.len();
                        return Err(place.error(format!("`{kind}` has {count} names in place of one")));
                    }
                    return Err(unknown_block(&place, &kind));
                };
                if within.is_some() || !BLOCKS.contains(&kind.as_str()) {
                    return Err(unknown_block(&place, &kind));
                }
                let (attributes, inner) = body_of(source, &block.body, Some(&kind))?;
                blocks.push(Block { label: label.as_str().to_owned(), attributes, blocks: inner, kind, place });
            }
        }
    }
    check(within, &attributes)?;
    Ok((attributes, blocks))
}

fn unknown_block(place: &Place, kind: &str) -> Error {
    place.fault(Fault::unknown(format!("a block `{kind}` has no place here"), kind, BLOCKS))
}

/// An error for an attribute that a block does not have.
pub(super) fn check(kind: Option<&str>, attributes: &[Attribute]) -> Result<()> {
    let Some((kind, known)) = kind.and_then(|kind| Some((kind, known(kind)?))) else { return Ok(()) };
    match attributes.iter().find(|attribute| !known.contains(&attribute.name.as_str())) {
        Some(attribute) => {
            let name = &attribute.name;
            let fault = Fault::unknown(format!("a {kind} has no attribute `{name}`"), name, known.iter().copied());
            Err(attribute.place.fault(fault))
        }
        None => Ok(()),
    }
}

impl Block {
    /// An attribute by its name.
    pub(super) fn attribute(&self, name: &str) -> Option<&Attribute> {
        self.attributes.iter().find(|attribute| attribute.name == name)
    }
}
