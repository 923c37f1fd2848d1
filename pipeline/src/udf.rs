//! The rooms' functions as DataFusion scalar functions over Arrow arrays.
//!
//! A function has no state but its parameters: two with the same `key` are the same function. Stages build theirs with
//! the manifest's options; SQL gets `language(text)`, `measure(text, 'rule')`, `text_hash(text)`, `words(text)`, and `host(url)`,
//! `domain(url)` and `suffix(url)`.

use datafusion::arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, Float64Builder, ListBuilder, StringArray, StringBuilder, StructArray,
};
use datafusion::arrow::datatypes::{DataType, Field, Fields};
use datafusion::common::exec_err;
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};
use datafusion::prelude::SessionContext;
use filters::extract::ExtractConfig;
use filters::language::LanguageModel;
use filters::rules::{Document, FilterConfig, Lists, Measurer};
use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

type DfResult<T> = datafusion::common::Result<T>;
type Body = Arc<dyn Fn(&[ArrayRef]) -> DfResult<ArrayRef> + Send + Sync>;

/// A scalar function made of a closure over whole columns.
struct Columns {
    name: &'static str,
    key: String,
    signature: Signature,
    returns: DataType,
    body: Body,
}

impl std::fmt::Debug for Columns {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}[{}]", self.name, self.key)
    }
}

impl PartialEq for Columns {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name && self.key == other.key
    }
}

impl Eq for Columns {}

impl Hash for Columns {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
        self.key.hash(state);
    }
}

impl ScalarUDFImpl for Columns {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> DfResult<DataType> {
        Ok(self.returns.clone())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        let rows = args.number_rows;
        let arrays: Vec<ArrayRef> = args.args.into_iter().map(|a| a.into_array(rows)).collect::<DfResult<_>>()?;
        (self.body)(&arrays).map(ColumnarValue::Array)
    }
}

fn function(name: &'static str, key: String, types: Vec<DataType>, returns: DataType, body: Body) -> ScalarUDF {
    let signature = Signature::exact(types, Volatility::Immutable);
    ScalarUDF::from(Columns { name, key, signature, returns, body })
}

/// Registers the functions every session has.
pub fn register(context: &SessionContext) {
    context.register_udf(language(filters::language::builtin(), "builtin".into(), None));
    context.register_udf(measure_one());
    context.register_udf(text_hash());
    context.register_udf(of_text("host", |url| filters::url::host(url).map(String::from)));
    context.register_udf(of_text("domain", |url| filters::url::domain(url).map(String::from)));
    context.register_udf(of_text("suffix", |url| filters::url::suffix(url).map(String::from)));
    context.register_udf(words());
    crate::exact::functions().into_iter().for_each(|f| context.register_udaf(f));
}

/// A text made of a text, such as `domain(url)`; null where there is none.
fn of_text(name: &'static str, part: fn(&str) -> Option<String>) -> ScalarUDF {
    let body = move |args: &[ArrayRef]| -> DfResult<ArrayRef> {
        let texts = args[0].as_string::<i32>();
        Ok(Arc::new(texts.iter().map(|t| t.and_then(part)).collect::<StringArray>()))
    };
    function(name, String::new(), vec![DataType::Utf8], DataType::Utf8, Arc::new(body))
}

/// `words(text)`: how many runs of characters between white space there are.
fn words() -> ScalarUDF {
    let body = |args: &[ArrayRef]| -> DfResult<ArrayRef> {
        let texts = args[0].as_string::<i32>();
        let counts = texts.iter().map(|t| t.map(|t| t.split_whitespace().count() as u64));
        Ok(Arc::new(counts.collect::<datafusion::arrow::array::UInt64Array>()))
    };
    function("words", String::new(), vec![DataType::Utf8], DataType::UInt64, Arc::new(body))
}

fn language_fields() -> Fields {
    Fields::from(vec![
        Field::new("code", DataType::Utf8, true),
        Field::new("score", DataType::Float64, true),
        Field::new("mixed", DataType::Float64, true),
    ])
}

/// `language(text) -> {code, score, mixed}`: ISO 639-1 where there is one, else 639-3; score 0..1; with `paragraph_chars` the share
/// of characters in paragraphs of that length that are in another language; nulls for no text.
pub fn language(model: &'static LanguageModel, key: String, paragraph_chars: Option<usize>) -> ScalarUDF {
    let body = move |args: &[ArrayRef]| -> DfResult<ArrayRef> {
        let texts = args[0].as_string::<i32>();
        let mut codes = StringBuilder::new();
        let [mut scores, mut mixed]: [Float64Builder; 2] = Default::default();
        for i in 0..texts.len() {
            let text = if texts.is_null(i) { "" } else { texts.value(i) };
            let (found, share) = match paragraph_chars {
                None => (model.predict(text), None),
                Some(least) => {
                    let document = model.document(text, least);
                    let share = document.mixed_share();
                    (document.prediction, share)
                }
            };
            codes.append_option(found.as_ref().map(|p| p.code.as_str()));
            scores.append_option(found.as_ref().map(|p| f64::from(p.score)));
            mixed.append_option(share.map(f64::from));
        }
        Ok(Arc::new(StructArray::new(
            language_fields(),
            vec![Arc::new(codes.finish()), Arc::new(scores.finish()), Arc::new(mixed.finish())],
            None,
        )))
    };
    let key = format!("{key} {paragraph_chars:?}");
    function("language", key, vec![DataType::Utf8], DataType::Struct(language_fields()), Arc::new(body))
}

/// `measures(text, url, language) -> {rule: value}`: every rule of a filter stage, measured in one pass; null = not computable.
/// `key` tells measurers apart.
pub fn measures(measurer: Arc<Measurer>, key: String) -> ScalarUDF {
    let rules = measurer.rules();
    let fields: Fields = rules.iter().map(|r| Field::new(&r.name, DataType::Float64, true)).collect();
    let returned = fields.clone();
    let body = move |args: &[ArrayRef]| -> DfResult<ArrayRef> {
        let [texts, urls, languages] = [0, 1, 2].map(|i| args[i].as_string::<i32>());
        let rules = measurer.rules().len();
        let mut columns: Vec<Float64Builder> = (0..rules).map(|_| Float64Builder::with_capacity(texts.len())).collect();
        let mut row = vec![None; rules];
        for i in 0..texts.len() {
            let text = optional(texts, i).unwrap_or_default();
            let document = Document { text, url: optional(urls, i), language: optional(languages, i) };
            measurer.measure(&document, &mut row);
            for (column, value) in columns.iter_mut().zip(&row) {
                column.append_option(*value);
            }
        }
        let arrays = columns.iter_mut().map(|c| Arc::new(c.finish()) as ArrayRef).collect();
        Ok(Arc::new(StructArray::try_new(fields.clone(), arrays, None)?))
    };
    function("measures", key, vec![DataType::Utf8; 3], DataType::Struct(returned), Arc::new(body))
}

/// `measure(text, 'gopher_quality.min_words') -> float`: one rule's measure, for trying thresholds in SQL.
fn measure_one() -> ScalarUDF {
    let body = |args: &[ArrayRef]| -> DfResult<ArrayRef> {
        let (texts, names) = (args[0].as_string::<i32>(), args[1].as_string::<i32>());
        let mut known: BTreeMap<String, Measurer> = BTreeMap::new();
        let mut values = Float64Builder::with_capacity(texts.len());
        for i in 0..texts.len() {
            if texts.is_null(i) || names.is_null(i) {
                values.append_null();
                continue;
            }
            let name = names.value(i).to_string();
            if !known.contains_key(&name) {
                let rules = BTreeMap::from([(name.clone(), 0.0)]);
                let config = FilterConfig { rules, ..FilterConfig::default() };
                match Measurer::new(&config, Lists::default()) {
                    Ok(measurer) => drop(known.insert(name.clone(), measurer)),
                    Err(e) => return exec_err!("measure: {e}"),
                }
            }
            let mut row = [None];
            known[&name].measure(&Document { text: texts.value(i), ..Document::default() }, &mut row);
            values.append_option(row[0]);
        }
        Ok(Arc::new(values.finish()))
    };
    function("measure", String::new(), vec![DataType::Utf8, DataType::Utf8], DataType::Float64, Arc::new(body))
}

/// blake3 of a text, 32 hex digits.
pub fn hash_text(text: &str) -> String {
    blake3::hash(text.as_bytes()).to_hex()[..32].to_string()
}

/// `text_hash(text)`: blake3 of the UTF-8 bytes, 32 hex digits.
fn text_hash() -> ScalarUDF {
    let body = |args: &[ArrayRef]| -> DfResult<ArrayRef> {
        let texts = args[0].as_string::<i32>();
        Ok(Arc::new(texts.iter().map(|t| t.map(hash_text)).collect::<StringArray>()))
    };
    function("text_hash", String::new(), vec![DataType::Utf8], DataType::Utf8, Arc::new(body))
}

/// Fields of the struct that `extract` returns.
pub fn page_fields() -> Fields {
    let list = crate::schema::string_list();
    Fields::from(vec![
        Field::new("title", DataType::Utf8, true),
        Field::new("author", DataType::Utf8, true),
        Field::new("published", DataType::Utf8, true),
        Field::new("site_name", DataType::Utf8, true),
        Field::new("html_lang", DataType::Utf8, true),
        Field::new("charset", DataType::Utf8, true),
        Field::new("undecodable", DataType::Float64, true),
        Field::new("links", list, true),
        Field::new("text_hash", DataType::Utf8, true),
        Field::new("text", DataType::Utf8, true),
        Field::new("rule", DataType::Utf8, true),
        Field::new("value", DataType::Float64, true),
        Field::new("threshold", DataType::Float64, true),
        Field::new("reason", DataType::Utf8, true),
    ])
}

/// `extract(html, content_type, url, text) -> page`: decodes and extracts; a row that already has text keeps it.
pub fn extract(config: ExtractConfig) -> ScalarUDF {
    let key = serde_json::to_string(&config).expect("options are plain data because they derive Serialize");
    let types = vec![DataType::Binary, DataType::Utf8, DataType::Utf8, DataType::Utf8];
    let body = move |args: &[ArrayRef]| -> DfResult<ArrayRef> {
        let html = args[0].as_binary::<i32>();
        let (types, urls, texts) = (args[1].as_string::<i32>(), args[2].as_string::<i32>(), args[3].as_string::<i32>());
        let mut pages = Pages::default();
        for i in 0..html.len() {
            let given = (!texts.is_null(i)).then(|| texts.value(i));
            pages.push(&config, html, i, optional(types, i), optional(urls, i), given);
        }
        pages.finish()
    };
    function("extract", key, types, DataType::Struct(page_fields()), Arc::new(body))
}

fn optional(array: &StringArray, i: usize) -> Option<&str> {
    (!array.is_null(i)).then(|| array.value(i))
}

#[derive(Default)]
struct Pages {
    strings: [StringBuilder; 9], // title, author, published, site_name, html_lang, charset, text_hash, text, rule
    reason: StringBuilder,
    undecodable: Float64Builder,
    value: Float64Builder,
    threshold: Float64Builder,
    links: Option<ListBuilder<StringBuilder>>,
}

impl Pages {
    fn push(
        &mut self,
        config: &ExtractConfig,
        html: &BinaryArray,
        i: usize,
        content_type: Option<&str>,
        url: Option<&str>,
        given: Option<&str>,
    ) {
        let links = self.links.get_or_insert_with(|| ListBuilder::new(StringBuilder::new()));
        let [title, author, published, site_name, html_lang, charset, text_hash, text, rule] = &mut self.strings;
        let (mut fault, mut undecodable) = (None, None);
        if html.is_null(i) {
            [&mut *title, author, published, site_name, html_lang, charset]
                .into_iter()
                .for_each(StringBuilder::append_null);
            text_hash.append_option(given.map(hash_text));
            text.append_option(given);
        } else {
            let decoded = filters::charset::decode(html.value(i), content_type);
            charset.append_value(decoded.encoding);
            undecodable = Some(decoded.replaced as f64);
            match filters::extract::extract(&decoded.text, url, config) {
                Ok(page) => {
                    title.append_option(page.title);
                    author.append_option(page.author);
                    published.append_option(page.date);
                    site_name.append_option(page.site_name);
                    html_lang.append_option(page.html_lang);
                    for link in &page.links {
                        links.values().append_value(link);
                    }
                    text_hash.append_value(hash_text(&page.text));
                    text.append_value(page.text);
                }
                Err(e) => {
                    [&mut *title, author, published, site_name, html_lang, text_hash, text]
                        .into_iter()
                        .for_each(StringBuilder::append_null);
                    fault = Some(e);
                }
            }
        }
        links.append(true);
        self.undecodable.append_option(undecodable);
        rule.append_option(fault.as_ref().map(|f| f.rule()));
        self.value.append_option(fault.as_ref().map(|f| f.value()));
        self.threshold.append_option(fault.as_ref().map(|f| f.threshold()));
        self.reason.append_option(fault.as_ref().map(ToString::to_string));
    }

    fn finish(mut self) -> DfResult<ArrayRef> {
        let [mut title, mut author, mut published, mut site_name, rest @ ..] = self.strings;
        let [mut html_lang, mut charset, mut text_hash, mut text, mut rule] = rest;
        let mut links = self.links.take().unwrap_or_else(|| ListBuilder::new(StringBuilder::new()));
        let columns: Vec<ArrayRef> = vec![
            Arc::new(title.finish()),
            Arc::new(author.finish()),
            Arc::new(published.finish()),
            Arc::new(site_name.finish()),
            Arc::new(html_lang.finish()),
            Arc::new(charset.finish()),
            Arc::new(self.undecodable.finish()),
            Arc::new(links.finish()),
            Arc::new(text_hash.finish()),
            Arc::new(text.finish()),
            Arc::new(rule.finish()),
            Arc::new(self.value.finish()),
            Arc::new(self.threshold.finish()),
            Arc::new(self.reason.finish()),
        ];
        Ok(Arc::new(StructArray::try_new(page_fields(), columns, None)?))
    }
}
