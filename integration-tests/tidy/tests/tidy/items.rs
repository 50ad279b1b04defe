//! The types that a file defines, and those that it implements.

use proc_macro2::TokenStream;
use syn::visit::{self, Visit};
use syn::{Ident, ItemImpl, Type, TypeParamBound, Visibility};

/// What a file defines, in modules and functions alike.
#[derive(Debug, Default)]
pub(crate) struct Items {
    /// Names of structs, enums, unions, traits and type aliases.
    pub(crate) types: Vec<DefinedType>,
    /// The types that have an `impl` without a trait.
    pub(crate) inherent_impls: Vec<String>,
}

/// A definition of a type.
#[derive(Debug)]
pub(crate) struct DefinedType {
    /// Its name.
    pub(crate) name: String,
    /// Whether it is `pub`, without a restriction.
    pub(crate) public: bool,
}

/// Reads the items of a file.
pub(crate) fn items(tokens: TokenStream) -> syn::Result<Items> {
    let file: syn::File = syn::parse2(tokens)?;
    let mut items = Items::default();
    items.visit_file(&file);
    Ok(items)
}

impl Items {
    fn define(&mut self, name: &Ident, visibility: &Visibility) {
        let public = matches!(visibility, Visibility::Public(_));
        self.types.push(DefinedType { name: name.to_string(), public });
    }
}

impl<'ast> Visit<'ast> for Items {
    fn visit_item_struct(&mut self, item: &'ast syn::ItemStruct) {
        self.define(&item.ident, &item.vis);
        visit::visit_item_struct(self, item);
    }

    fn visit_item_enum(&mut self, item: &'ast syn::ItemEnum) {
        self.define(&item.ident, &item.vis);
        visit::visit_item_enum(self, item);
    }

    fn visit_item_union(&mut self, item: &'ast syn::ItemUnion) {
        self.define(&item.ident, &item.vis);
        visit::visit_item_union(self, item);
    }

    fn visit_item_trait(&mut self, item: &'ast syn::ItemTrait) {
        self.define(&item.ident, &item.vis);
        visit::visit_item_trait(self, item);
    }

    fn visit_item_type(&mut self, item: &'ast syn::ItemType) {
        self.define(&item.ident, &item.vis);
        visit::visit_item_type(self, item);
    }

    fn visit_item_impl(&mut self, item: &'ast ItemImpl) {
        if item.trait_.is_none() {
            self.inherent_impls.extend(name_of(&item.self_ty));
        }
        visit::visit_item_impl(self, item);
    }
}

fn name_of(written: &Type) -> Option<String> {
    let path = match written {
        Type::Path(written) => &written.path,
        Type::TraitObject(object) => object.bounds.iter().find_map(|bound| match bound {
            TypeParamBound::Trait(bound) => Some(&bound.path),
            _ => None,
        })?,
        _ => return None,
    };
    path.segments.last().map(|segment| segment.ident.to_string())
}

#[test]
fn types_and_their_inherent_impls_are_read() {
    let code = "
        pub struct A<T>(T); pub(crate) enum B {} trait C { type X; } pub type D = A<u8>; mod m { pub union E { a: u8 } }
        impl<T> A<T> where T: Fn() { fn f() -> impl Fn() { struct F; impl F {} || () } } impl Clone for B { }
        impl m::E {} impl dyn C + Send {} impl<T> From<T> for B {}
    ";
    let items = items(code.parse().unwrap()).unwrap();
    let types: Vec<_> = items.types.iter().map(|defined| (defined.name.as_str(), defined.public)).collect();
    assert_eq!(types, [("A", true), ("B", false), ("C", false), ("D", true), ("E", true), ("F", false)]);
    assert_eq!(items.inherent_impls, ["A", "F", "E", "C"]);
}
