//! Extracts the files that `GET /docs` serves from the archive of Swagger UI.

use std::{
    env, fs,
    io::{Cursor, Read},
    path::Path,
};

use utoipa_swagger_ui_vendored::SWAGGER_UI_VENDORED;
use zip::{CompressionMethod, ZipArchive, read::ZipFile};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let directory = env::var_os("OUT_DIR").expect("cargo sets OUT_DIR");
    let mut archive = ZipArchive::new(Cursor::new(SWAGGER_UI_VENDORED)).expect("a zip archive");
    for name in ["swagger-ui.css", "swagger-ui-bundle.js"] {
        let end = format!("/dist/{name}");
        let index = archive
            .file_names_raw()
            .position(|path| path.ends_with(end.as_bytes()))
            .unwrap_or_else(|| panic!("the archive of Swagger UI contains `{name}`"));
        let file = archive.by_index_raw(index).expect("a readable archive");
        let path = Path::new(&directory).join(format!("{name}.gz"));
        fs::write(path, gzip(file)).expect("a writable OUT_DIR");
    }
}

/// The file as gzip (RFC 1952). Zip and gzip hold the same deflated data, which is copied and not compressed again: so the function
/// is the same to the byte wherever it is built.
fn gzip(mut file: ZipFile<'_, impl Read>) -> Vec<u8> {
    assert_eq!(file.compression(), CompressionMethod::Deflated);
    // Magic number, deflated, no flags, no time, compression unknown, system unknown.
    let mut gzip = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    file.read_to_end(&mut gzip).expect("a readable archive");
    gzip.extend(file.crc32().to_le_bytes());
    let length = u32::try_from(file.size()).expect("a file of less than 4 GB");
    gzip.extend(length.to_le_bytes());
    gzip
}
