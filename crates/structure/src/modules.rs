//! The modules of one crate, each with the file that it stands in and the names that it gives to others.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use syn::{Item, UseTree};

/// The place of a module in its crate: `["sink", "postgres"]`; the root is empty.
pub(crate) type ModulePath = Vec<String>;

/// A module.
pub(crate) struct Module {
    /// The file it stands in. An inline module has the file of the module around it.
    pub(crate) file: PathBuf,
    /// Its items, without those of its inline modules and without tests.
    pub(crate) items: Vec<Item>,
    /// What its `use` declarations bind, by the name that they bind it to.
    pub(crate) bindings: BTreeMap<String, Vec<String>>,
}

/// A crate: all modules that its root declares, at any depth.
pub(crate) struct Crate {
    pub(crate) modules: BTreeMap<ModulePath, Module>,
    /// Macros with `#[macro_export]`, which are called by a path of the root, and the modules that define them.
    pub(crate) macros: BTreeMap<String, ModulePath>,
}

/// One name of a `use` declaration.
pub(crate) struct Use {
    /// Its path as it is written, without a `self` at the end.
    pub(crate) path: Vec<String>,
    /// The name it gets here; none for `*` and `_`.
    pub(crate) name: Option<String>,
}

impl Crate {
    /// Reads a crate from its root file on.
    pub(crate) fn read(root: &Path) -> Result<Crate, String> {
        let mut found = Crate {
            modules: BTreeMap::new(),
            macros: BTreeMap::new(),
        };
        let folder = root.parent().unwrap_or(Path::new(""));
        found.read_file(root, folder, Vec::new())?;
        Ok(found)
    }

    /// `folder` is where the files of the module's children are.
    fn read_file(&mut self, file: &Path, folder: &Path, path: ModulePath) -> Result<(), String> {
        let text = std::fs::read_to_string(file).map_err(|e| format!("{}: {e}", file.display()))?;
        let parsed = syn::parse_file(&text).map_err(|e| {
            let line = e.span().start().line;
            format!("{}:{line}: {e}", file.display())
        })?;
        self.read_items(file, folder, path, parsed.items)
    }

    fn read_items(
        &mut self,
        file: &Path,
        folder: &Path,
        path: ModulePath,
        items: Vec<Item>,
    ) -> Result<(), String> {
        let mut module = Module {
            file: file.to_owned(),
            items: Vec::new(),
            bindings: BTreeMap::new(),
        };
        for item in items {
            match item {
                _ if is_test(attributes(&item)) => {}
                Item::Mod(declared) => {
                    let name = plain(&declared.ident);
                    let mut child = path.clone();
                    child.push(name.clone());
                    let below = folder.join(&name);
                    match declared.content {
                        Some((_, items)) => self.read_items(file, &below, child, items)?,
                        None => {
                            let (file, below) = match path_attribute(&declared.attrs) {
                                Some(named) => {
                                    let file = file.parent().unwrap_or(Path::new("")).join(named);
                                    let below = file.parent().unwrap_or(Path::new("")).to_owned();
                                    (file, below)
                                }
                                None if below.join("mod.rs").is_file() => {
                                    (below.join("mod.rs"), below)
                                }
                                None => (folder.join(format!("{name}.rs")), below),
                            };
                            self.read_file(&file, &below, child)?;
                        }
                    }
                }
                Item::Macro(defined) => {
                    let exported = |a: &syn::Attribute| a.path().is_ident("macro_export");
                    if let Some(name) = &defined.ident
                        && defined.attrs.iter().any(exported)
                    {
                        self.macros.insert(plain(name), path.clone());
                    }
                    module.items.push(Item::Macro(defined));
                }
                Item::Use(declared) => {
                    for one in uses(&declared.tree) {
                        if let Some(name) = one.name {
                            module.bindings.insert(name, one.path);
                        }
                    }
                    module.items.push(Item::Use(declared));
                }
                item => module.items.push(item),
            }
        }
        self.modules.insert(path, module);
        Ok(())
    }
}

/// An identifier without `r#`.
pub(crate) fn plain(ident: &proc_macro2::Ident) -> String {
    let text = ident.to_string();
    text.strip_prefix("r#").unwrap_or(&text).to_owned()
}

/// Every name of a `use` declaration.
pub(crate) fn uses(tree: &UseTree) -> Vec<Use> {
    fn walk(tree: &UseTree, before: &[String], found: &mut Vec<Use>) {
        let with = |ident: &proc_macro2::Ident| {
            let mut path = before.to_vec();
            // `{self}` is what is before it.
            if ident != "self" || before.is_empty() {
                path.push(plain(ident));
            }
            path
        };
        match tree {
            UseTree::Path(path) => walk(&path.tree, &with(&path.ident), found),
            UseTree::Name(name) => {
                let path = with(&name.ident);
                let name = path.last().cloned();
                found.push(Use { path, name });
            }
            UseTree::Rename(rename) => found.push(Use {
                path: with(&rename.ident),
                name: (rename.rename != "_").then(|| plain(&rename.rename)),
            }),
            UseTree::Glob(_) => found.push(Use {
                path: before.to_vec(),
                name: None,
            }),
            UseTree::Group(group) => {
                for tree in &group.items {
                    walk(tree, before, found);
                }
            }
        }
    }
    let mut found = Vec::new();
    walk(tree, &[], &mut found);
    found
}

/// Whether it is there in tests only: those may look at everything.
fn is_test(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let is_test = |list: &syn::MetaList| list.tokens.to_string() == "test";
        attribute.path().is_ident("test")
            || attribute.path().is_ident("cfg") && attribute.meta.require_list().is_ok_and(is_test)
    })
}

fn attributes(item: &Item) -> &[syn::Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

fn path_attribute(attributes: &[syn::Attribute]) -> Option<String> {
    attributes.iter().find_map(|attribute| {
        let value = attribute.meta.require_name_value().ok()?;
        match &value.value {
            syn::Expr::Lit(syn::ExprLit {
                lit: syn::Lit::Str(text),
                ..
            }) if value.path.is_ident("path") => Some(text.value()),
            _ => None,
        }
    })
}
