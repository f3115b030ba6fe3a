//! Source files, parsed: which of their lines are production code, and how long their functions are.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use syn::{
    Attribute, Block, Expr, ImplItemFn, Item, ItemFn, ItemMod, Lit, Meta, Signature,
    spanned::Spanned,
    visit::{self, Visit},
};

/// One file of a crate.
pub struct Source {
    pub path: PathBuf,
    /// Comments and blank lines included, items under `#[cfg(test)]` excluded.
    pub production_lines: usize,
    pub functions: Vec<Function>,
}

/// A function or method with a body.
#[derive(Debug, PartialEq)]
pub struct Function {
    pub name: String,
    /// From `fn` to the closing brace.
    pub lines: usize,
    pub kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    Production,
    /// In a test program, or under `#[cfg(test)]`.
    Helper,
    /// Has `#[test]` or an attribute like it.
    Test,
}

/// Reads the first file of a crate, and from there the files of all its modules.
pub fn read_crate(root: &Path, is_test: bool) -> Result<Vec<Source>> {
    let directory = root.parent().unwrap_or(Path::new(".")).to_owned();
    let mut files = vec![ModuleFile { path: root.to_owned(), directory, is_test }];
    let mut sources = Vec::new();
    while let Some(file) = files.pop() {
        let path = file.path.display();
        let text = fs::read_to_string(&file.path).with_context(|| format!("cannot read {path}"))?;
        let mut reader = Reader::new(file.directory, file.is_test);
        reader.visit_file(&syn::parse_file(&text).with_context(|| format!("cannot parse {path}"))?);
        let lines = if file.is_test { 0 } else { text.lines().count() - reader.test_lines };
        files.append(&mut reader.files);
        sources.push(Source {
            path: file.path,
            production_lines: lines,
            functions: reader.functions,
        });
    }
    Ok(sources)
}

struct ModuleFile {
    path: PathBuf,
    /// Has the files of its modules.
    directory: PathBuf,
    is_test: bool,
}

/// Visits one file.
struct Reader {
    directory: PathBuf,
    is_test: bool,
    /// Lines of items under `#[cfg(test)]`.
    test_lines: usize,
    functions: Vec<Function>,
    /// Of modules that are declared here.
    files: Vec<ModuleFile>,
}

impl Reader {
    fn new(directory: PathBuf, is_test: bool) -> Self {
        Self { directory, is_test, test_lines: 0, functions: Vec::new(), files: Vec::new() }
    }

    fn add_function(&mut self, attributes: &[Attribute], signature: &Signature, block: &Block) {
        let is_test = |attribute: &Attribute| {
            let path = attribute.path();
            path.segments.last().is_some_and(|segment| segment.ident == "test")
        };
        let kind = match self.is_test {
            _ if attributes.iter().any(is_test) => Kind::Test,
            true => Kind::Helper,
            false => Kind::Production,
        };
        let lines = block.span().end().line + 1 - signature.fn_token.span.start().line;
        self.functions.push(Function { name: signature.ident.to_string(), lines, kind });
    }

    /// Visits an item's children, as test code if it is under `#[cfg(test)]`.
    fn visit_item_as(
        &mut self,
        attributes: &[Attribute],
        item: &impl Spanned,
        visit: impl FnOnce(&mut Self),
    ) {
        let is_outermost = !self.is_test && attributes.iter().any(is_cfg_test);
        if is_outermost {
            let span = item.span();
            self.test_lines += span.end().line + 1 - span.start().line;
            self.is_test = true;
        }
        visit(self);
        self.is_test &= !is_outermost;
    }
}

impl Visit<'_> for Reader {
    fn visit_item(&mut self, item: &Item) {
        self.visit_item_as(attributes(item), item, |reader| visit::visit_item(reader, item));
    }

    fn visit_impl_item_fn(&mut self, function: &ImplItemFn) {
        self.visit_item_as(&function.attrs, function, |reader| {
            reader.add_function(&function.attrs, &function.sig, &function.block);
            visit::visit_impl_item_fn(reader, function);
        });
    }

    fn visit_item_fn(&mut self, function: &ItemFn) {
        self.add_function(&function.attrs, &function.sig, &function.block);
        visit::visit_item_fn(self, function);
    }

    fn visit_item_mod(&mut self, module: &ItemMod) {
        let name = module.ident.to_string();
        let directory = self.directory.join(&name);
        if module.content.is_some() {
            let parent = std::mem::replace(&mut self.directory, directory);
            visit::visit_item_mod(self, module);
            self.directory = parent;
            return;
        }
        let path = match module.attrs.iter().find_map(path_attribute) {
            Some(path) => self.directory.join(path),
            None => self.directory.join(format!("{name}.rs")),
        };
        let path = if path.exists() { path } else { directory.join("mod.rs") };
        self.files.push(ModuleFile { path, directory, is_test: self.is_test });
    }
}

fn is_cfg_test(attribute: &Attribute) -> bool {
    attribute.path().is_ident("cfg")
        && attribute.parse_args::<syn::Path>().is_ok_and(|condition| condition.is_ident("test"))
}

/// The value of `#[path = "…"]`.
fn path_attribute(attribute: &Attribute) -> Option<String> {
    let Meta::NameValue(meta) = &attribute.meta else { return None };
    match &meta.value {
        Expr::Lit(value) if meta.path.is_ident("path") => match &value.lit {
            Lit::Str(path) => Some(path.value()),
            _ => None,
        },
        _ => None,
    }
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_under_cfg_test_are_not_production_code() {
        let text = "fn a() {\n    b();\n}\n\n/// Tests.\n#[cfg(test)]\nmod tests {\n    #[test]\n    fn c() {}\n    fn d() {}\n}\n";
        let mut reader = Reader::new(PathBuf::new(), false);
        reader.visit_file(&syn::parse_file(text).expect("it is Rust"));
        let function = |name: &str, lines, kind| Function { name: name.to_owned(), lines, kind };
        let expected = [
            function("a", 3, Kind::Production),
            function("c", 1, Kind::Test),
            function("d", 1, Kind::Helper),
        ];
        assert_eq!(reader.functions, expected);
        assert_eq!(reader.test_lines, 7);
    }
}
