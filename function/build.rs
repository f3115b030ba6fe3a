//! Takes out of Swagger UI's archive what `GET /docs` serves. Without the service there is nothing to do.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    #[cfg(feature = "service")]
    swagger_ui::unpack(std::env::var_os("OUT_DIR").expect("cargo sets it").as_ref());
}

#[cfg(feature = "service")]
mod swagger_ui {
    use std::{
        fs,
        io::{Cursor, Read},
        path::Path,
    };

    use utoipa_swagger_ui_vendored::SWAGGER_UI_VENDORED;
    use zip::{CompressionMethod, ZipArchive, read::ZipFile};

    const FILES: [&str; 2] = ["swagger-ui.css", "swagger-ui-bundle.js"];

    /// Writes the files, as gzip, to this directory.
    pub fn unpack(directory: &Path) {
        let mut archive = ZipArchive::new(Cursor::new(SWAGGER_UI_VENDORED)).expect("it is a zip");
        for name in FILES {
            let end = format!("/dist/{name}");
            let index = archive
                .file_names_raw()
                .position(|path| path.ends_with(end.as_bytes()))
                .unwrap_or_else(|| panic!("`{name}` is in Swagger UI's archive"));
            let file = archive.by_index_raw(index).expect("it can be read");
            let path = directory.join(format!("{name}.gz"));
            fs::write(path, gzip(file)).expect("OUT_DIR can be written");
        }
    }

    /// The file as gzip (RFC 1952). What zip and gzip hold is the same, deflated; nothing is compressed anew, so that the
    /// function is the same to the byte whatever builds it.
    fn gzip(mut file: ZipFile<'_, impl Read>) -> Vec<u8> {
        assert_eq!(file.compression(), CompressionMethod::Deflated);
        // Magic number, deflated, no flags, no time, nothing about the compression, unknown system.
        let mut gzip = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
        file.read_to_end(&mut gzip).expect("it can be read");
        gzip.extend(file.crc32().to_le_bytes());
        let length = u32::try_from(file.size()).expect("it is small");
        gzip.extend(length.to_le_bytes());
        gzip
    }
}
