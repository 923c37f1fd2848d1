//! Which language a text is in.
//!
//! In: a text. Out: the language's code and the model's probability for it. The model is the shipped one (`builtin`), a user's
//! fastText file (`LanguageModel::load`), or one trained from labelled rows (`train`).
//! Leaves to `pipeline`: which languages to keep, from which score on, and reading the rows to train on.
//! Joulin et al. 2016, "Bag of Tricks for Efficient Text Classification"; the shipped model and its accuracy per language are
//! described in `filters/models/README.md`.

mod classifier;
mod codes;
mod format;
mod hidden;
mod keep;
mod ngrams;
mod output;
mod paragraphs;
#[cfg(test)]
mod parity;
mod train;
mod words;

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use classifier::Classifier;
pub use codes::code_of;
pub use keep::{Keep, threshold_from_scores};
pub use paragraphs::{Document, Paragraph};
pub use train::{ClassifierConfig, LabelAccuracy, evaluate, is_held_out, train};

/// What can be wrong with a model file, with the rows to train from, or with the training settings.
#[derive(Debug, thiserror::Error)]
pub enum LanguageError {
    /// The model file cannot be read.
    #[error("cannot read the model {}: {source}", path.display())]
    Unreadable {
        /// The file asked for.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The bytes do not begin like a fastText model.
    #[error("not a fastText model (.bin or .ftz)")]
    NotAModel,
    /// The model is of a format version that cannot be read.
    #[error("fastText format version {version}; 11 and 12 can be read")]
    Version {
        /// The version the file states.
        version: i32,
    },
    /// The model holds word vectors, not a classifier.
    #[error("the fastText model is not a classifier (it was not trained with `supervised`)")]
    NotAClassifier,
    /// The model contradicts itself or ends early.
    #[error("the fastText model is damaged: {what}")]
    Damaged {
        /// The part of the file that is wrong.
        what: &'static str,
    },
    /// The rows cannot train a classifier.
    #[error("cannot train a classifier: {reason}")]
    Rows {
        /// What the rows lack.
        reason: String,
    },
    /// A training setting is out of range.
    #[error("`{field}` = {value} is out of range: {range}")]
    Setting {
        /// The field of [`ClassifierConfig`].
        field: &'static str,
        /// Its value, as text.
        value: String,
        /// What is allowed.
        range: &'static str,
    },
    /// The training library failed, or its temporary file could not be written.
    #[error("training failed: {source}")]
    Training {
        /// What the library said.
        source: fasttext::FastTextError,
    },
}

impl From<std::io::Error> for LanguageError {
    fn from(source: std::io::Error) -> Self {
        Self::Training { source: fasttext::FastTextError::IoError(source) }
    }
}

/// The most probable language of a text.
#[derive(Clone, Debug, PartialEq)]
pub struct Prediction {
    /// ISO 639-1 where one exists, else ISO 639-3 (see [`code_of`]).
    pub code: String,
    /// The model's probability for it, 0..1, as fastText reports it: 1e-5 is added inside its logarithms.
    pub score: f32,
}

/// A fastText classifier whose labels are languages. Immutable: share it among threads.
#[derive(Debug)]
pub struct LanguageModel {
    classifier: Classifier,
    /// The code of each label, in the model's label order.
    codes: Vec<String>,
}

impl LanguageModel {
    /// Reads a model file, `.bin` or quantised `.ftz`, such as lid.176.bin, lid.176.ftz, GlotLID or OpenLID.
    pub fn load(path: &Path) -> Result<Self, LanguageError> {
        let bytes =
            std::fs::read(path).map_err(|source| LanguageError::Unreadable { path: path.to_owned(), source })?;
        Self::from_bytes(bytes)
    }

    /// Reads a model from the bytes of its file. A damaged file is an error, never a panic.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, LanguageError> {
        Self::read(&bytes)
    }

    fn read(bytes: &[u8]) -> Result<Self, LanguageError> {
        let classifier = Classifier::from_bytes(bytes)?;
        let codes = classifier.labels().iter().map(|label| code_of(label)).collect();
        Ok(Self { classifier, codes })
    }

    /// The language of a whole text; newlines count as spaces. `None` if the text is blank.
    ///
    /// The answer is fastText's for the text as one line, and the same bits on every processor and in every thread.
    pub fn predict(&self, text: &str) -> Option<Prediction> {
        self.classifier.best(text).map(|best| self.prediction(best))
    }

    /// The model's own label, such as `__label__eng_Latn`, and its probability, 0..1; as [`Self::predict`] otherwise.
    pub fn predict_label(&self, text: &str) -> Option<(&str, f32)> {
        self.classifier.best(text).map(|(label, score)| (self.classifier.labels()[label].as_str(), score))
    }

    fn prediction(&self, (label, score): (usize, f32)) -> Prediction {
        Prediction { code: self.codes[label].clone(), score }
    }

    /// The codes that this model can answer with, sorted, each once.
    pub fn codes(&self) -> Vec<&str> {
        let mut codes: Vec<&str> = self.codes.iter().map(String::as_str).collect();
        codes.sort_unstable();
        codes.dedup();
        codes
    }
}

/// The bytes of the shipped model: `filters/models/language.ftz`.
pub const BUILTIN: &[u8] = include_bytes!("../../models/language.ftz");

/// The shipped model, read on first use.
pub fn builtin() -> &'static LanguageModel {
    static MODEL: LazyLock<LanguageModel> =
        LazyLock::new(|| LanguageModel::read(BUILTIN).expect("the shipped model is read by a test"));
    &MODEL
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_model_is_small_and_knows_the_languages_of_the_documentation_crawls() {
        assert!(BUILTIN.len() <= 2 << 20, "{} bytes", BUILTIN.len());
        let codes = builtin().codes();
        for code in ["de", "el", "en", "es", "fr", "hi", "it", "ja", "ko", "pt", "ru", "tr", "vi", "zh"] {
            assert!(codes.contains(&code), "{code}");
        }
    }

    #[test]
    fn the_shipped_model_names_the_language_of_plain_sentences() {
        for (code, text) in [
            ("en", "The server writes every request to a log file before it answers."),
            ("de", "Der Server schreibt jede Anfrage in eine Protokolldatei, bevor er antwortet."),
            ("fr", "Le serveur écrit chaque requête dans un fichier journal avant de répondre."),
            ("es", "El servidor escribe cada petición en un archivo de registro antes de responder."),
            ("it", "Il server scrive ogni richiesta in un file di registro prima di rispondere."),
            ("pt", "O servidor grava cada pedido num ficheiro de registo antes de responder."),
            ("tr", "Sunucu yanıt vermeden önce her isteği bir günlük dosyasına yazar."),
            ("vi", "Máy chủ ghi mỗi yêu cầu vào tệp nhật ký trước khi trả lời."),
            ("ru", "Сервер записывает каждый запрос в журнал, прежде чем ответить."),
            ("el", "Ο διακομιστής γράφει κάθε αίτημα σε ένα αρχείο καταγραφής πριν απαντήσει."),
            ("hi", "सर्वर उत्तर देने से पहले हर अनुरोध को एक लॉग फ़ाइल में लिखता है।"),
            ("ja", "サーバーは応答する前に、すべての要求をログファイルに書き込みます。"),
            ("ko", "서버는 응답하기 전에 모든 요청을 로그 파일에 기록합니다."),
            ("zh", "服务器在回答之前会把每个请求写入日志文件。"),
        ] {
            let prediction = builtin().predict(text).expect("a sentence has words");
            assert_eq!(prediction.code, code, "{text} ({})", prediction.score);
        }
    }

    #[test]
    fn a_text_without_words_has_no_language_and_newlines_count_as_spaces() {
        assert_eq!(builtin().predict(""), None);
        assert_eq!(builtin().predict(" \n\t\r\n"), None);
        let one_word = builtin().predict("Straße").expect("one word is enough for an answer");
        assert!((0.0..=1.0).contains(&one_word.score));
        assert_eq!(builtin().predict("eine\nneue\nZeile"), builtin().predict("eine neue Zeile"));
    }

    #[test]
    fn damaged_models_are_errors_at_every_length_and_never_panics() {
        assert!(matches!(LanguageModel::from_bytes(Vec::new()), Err(LanguageError::Damaged { .. })));
        assert!(matches!(LanguageModel::from_bytes(b"<!DOCTYPE html>".to_vec()), Err(LanguageError::NotAModel)));
        for length in (0..BUILTIN.len()).step_by(40_009) {
            assert!(LanguageModel::read(&BUILTIN[..length]).is_err(), "{length} bytes");
        }
        for at in (0..160).step_by(3) {
            for value in [0, 0x7F, 0xFF] {
                let mut bytes = BUILTIN.to_vec();
                bytes[at] = value;
                if let Ok(model) = LanguageModel::from_bytes(bytes) {
                    model.predict("any text at all, with words of several lengths");
                }
            }
        }
    }

    #[test]
    fn a_missing_model_file_names_its_path() {
        let error = LanguageModel::load(Path::new("no/such/lid.bin")).expect_err("the file does not exist");
        assert!(error.to_string().contains("no/such/lid.bin"), "{error}");
    }
}
