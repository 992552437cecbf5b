//! What each error says to a person, with what to do.

use super::*;

#[test]
fn each_error_says_what_was_wrong() {
    let errors = [
        Error::Convert {
            path: PathBuf::from("/srv/file"),
            source: convert::Error::Tokenizer("no".to_owned()),
        },
        Error::Gguf { path: PathBuf::from("/srv/file"), source: gguf::Error::Malformed("no".to_owned()) },
        Error::Read { path: PathBuf::from("/srv/file"), source: io::Error::other("the disk says no") },
        Error::Unsupported { path: PathBuf::from("/srv/file"), reason: "it is odd".to_owned() },
        Error::Requantize { path: PathBuf::from("/srv/file"), tensor_type: TensorType::Q4K },
        Error::Tensor {
            path: PathBuf::from("/srv/file"),
            name: "name".to_owned(),
            reason: "it is odd".to_owned(),
        },
        Error::Imatrix { path: PathBuf::from("/srv/file"), reason: "it is odd".to_owned() },
        Error::WithoutLlama(Quant::Q4KM),
        Error::SameName(PathBuf::from("/srv/")),
        Error::Busy { path: PathBuf::from("/srv/file") },
        Error::NoRoom {
            path: PathBuf::from("/srv/file"),
            bytes: Bytes::mib(700),
            source: io::Error::other("the disk says no"),
        },
        Error::Write { path: PathBuf::from("/srv/file"), source: io::Error::other("the disk says no") },
        Error::Header { path: PathBuf::from("/srv/file"), source: gguf::Error::Malformed("no".to_owned()) },
        Error::Stopped,
    ];
    let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
    insta::assert_snapshot!(texts.join("\n"));
}
