//! Language labels as models write them, mapped to the one code that gristmill uses.
//!
//! In: a label such as `__label__en` (lid.176), `__label__eng_Latn` (GlotLID, NLLB, OpenLID), `__label__zh-Hant` or `eng`.
//! Out: the ISO 639-1 code where one exists, else the ISO 639-3 code, in lower case, without script or region.
//! An individual language that models name in place of its macrolanguage (`arb`, `cmn`, `pes`) takes the two letters of the
//! macrolanguage; `kmr` and `ckb` stay apart, because `ku` would merge two languages that corpora keep apart.
//! ISO 639-3:2007 and its macrolanguage mappings (SIL). Leaves to `mod.rs`: what a model says about a text.

/// ISO 639-3 code and ISO 639-1 code, sorted by the first: the 183 living pairs, then the usual members of macrolanguages.
#[rustfmt::skip]
const TWO_LETTERS: &[(&str, &str)] = &[
    ("aar", "aa"), ("abk", "ab"), ("afr", "af"), ("aka", "ak"), ("amh", "am"), ("ara", "ar"), ("arb", "ar"),
    ("arg", "an"), ("asm", "as"), ("ava", "av"), ("ave", "ae"), ("aym", "ay"), ("ayr", "ay"), ("aze", "az"),
    ("azj", "az"), ("bak", "ba"), ("bam", "bm"), ("bel", "be"), ("ben", "bn"), ("bis", "bi"), ("bod", "bo"),
    ("bos", "bs"), ("bre", "br"), ("bul", "bg"), ("cat", "ca"), ("ces", "cs"), ("cha", "ch"), ("che", "ce"),
    ("chu", "cu"), ("chv", "cv"), ("cmn", "zh"), ("cor", "kw"), ("cos", "co"), ("cre", "cr"), ("cym", "cy"),
    ("dan", "da"), ("deu", "de"), ("div", "dv"), ("dzo", "dz"), ("ekk", "et"), ("ell", "el"), ("eng", "en"),
    ("epo", "eo"), ("est", "et"), ("eus", "eu"), ("ewe", "ee"), ("fao", "fo"), ("fas", "fa"), ("fij", "fj"),
    ("fin", "fi"), ("fra", "fr"), ("fry", "fy"), ("ful", "ff"), ("gaz", "om"), ("gla", "gd"), ("gle", "ga"),
    ("glg", "gl"), ("glv", "gv"), ("grn", "gn"), ("gug", "gn"), ("guj", "gu"), ("hat", "ht"), ("hau", "ha"),
    ("hbs", "sh"), ("heb", "he"), ("her", "hz"), ("hin", "hi"), ("hmo", "ho"), ("hrv", "hr"), ("hun", "hu"),
    ("hye", "hy"), ("ibo", "ig"), ("ido", "io"), ("iii", "ii"), ("iku", "iu"), ("ile", "ie"), ("ina", "ia"),
    ("ind", "id"), ("ipk", "ik"), ("isl", "is"), ("ita", "it"), ("jav", "jv"), ("jpn", "ja"), ("kal", "kl"),
    ("kan", "kn"), ("kas", "ks"), ("kat", "ka"), ("kau", "kr"), ("kaz", "kk"), ("khk", "mn"), ("khm", "km"),
    ("kik", "ki"), ("kin", "rw"), ("kir", "ky"), ("knc", "kr"), ("kom", "kv"), ("kon", "kg"), ("kor", "ko"),
    ("kua", "kj"), ("kur", "ku"), ("lao", "lo"), ("lat", "la"), ("lav", "lv"), ("lim", "li"), ("lin", "ln"),
    ("lit", "lt"), ("ltz", "lb"), ("lub", "lu"), ("lug", "lg"), ("lvs", "lv"), ("mah", "mh"), ("mal", "ml"),
    ("mar", "mr"), ("mkd", "mk"), ("mlg", "mg"), ("mlt", "mt"), ("mon", "mn"), ("mri", "mi"), ("msa", "ms"),
    ("mya", "my"), ("nau", "na"), ("nav", "nv"), ("nbl", "nr"), ("nde", "nd"), ("ndo", "ng"), ("nep", "ne"),
    ("nld", "nl"), ("nno", "nn"), ("nob", "nb"), ("nor", "no"), ("npi", "ne"), ("nya", "ny"), ("oci", "oc"),
    ("oji", "oj"), ("ori", "or"), ("orm", "om"), ("ory", "or"), ("oss", "os"), ("pan", "pa"), ("pbt", "ps"),
    ("pes", "fa"), ("pli", "pi"), ("plt", "mg"), ("pol", "pl"), ("por", "pt"), ("pus", "ps"), ("que", "qu"),
    ("quy", "qu"), ("roh", "rm"), ("ron", "ro"), ("run", "rn"), ("rus", "ru"), ("sag", "sg"), ("san", "sa"),
    ("sin", "si"), ("slk", "sk"), ("slv", "sl"), ("sme", "se"), ("smo", "sm"), ("sna", "sn"), ("snd", "sd"),
    ("som", "so"), ("sot", "st"), ("spa", "es"), ("sqi", "sq"), ("srd", "sc"), ("srp", "sr"), ("ssw", "ss"),
    ("sun", "su"), ("swa", "sw"), ("swe", "sv"), ("swh", "sw"), ("tah", "ty"), ("tam", "ta"), ("tat", "tt"),
    ("tel", "te"), ("tgk", "tg"), ("tgl", "tl"), ("tha", "th"), ("tir", "ti"), ("ton", "to"), ("tsn", "tn"),
    ("tso", "ts"), ("tuk", "tk"), ("tur", "tr"), ("twi", "tw"), ("uig", "ug"), ("ukr", "uk"), ("urd", "ur"),
    ("uzb", "uz"), ("uzn", "uz"), ("ven", "ve"), ("vie", "vi"), ("vol", "vo"), ("wln", "wa"), ("wol", "wo"),
    ("xho", "xh"), ("ydd", "yi"), ("yid", "yi"), ("yor", "yo"), ("zha", "za"), ("zho", "zh"), ("zsm", "ms"),
    ("zul", "zu"),
];

/// The code of a label: ISO 639-1 where one exists, else the label's own language part in lower case.
///
/// `als` alone stays `als` (Alemannic in lid.176, whose labels are Wikipedia's), `als_Latn` is Tosk Albanian and gives `sq`.
pub fn code_of(label: &str) -> String {
    let label = label.strip_prefix("__label__").unwrap_or(label);
    if label == "als_Latn" {
        return "sq".to_owned();
    }
    let language = label.split(['_', '-']).next().unwrap_or(label).to_ascii_lowercase();
    match TWO_LETTERS.binary_search_by_key(&language.as_str(), |&(three, _)| three) {
        Ok(found) => TWO_LETTERS[found].1.to_owned(),
        Err(_) => language,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_so_that_it_can_be_searched() {
        assert!(TWO_LETTERS.windows(2).all(|pair| pair[0].0 < pair[1].0));
    }

    #[test]
    fn labels_of_every_model_family_map_to_one_code() {
        for (label, code) in [
            ("__label__en", "en"),
            ("__label__eng", "en"),
            ("__label__eng_Latn", "en"),
            ("eng", "en"),
            ("ENG_Latn", "en"),
            ("__label__zho_Hant", "zh"),
            ("__label__zh-Hant", "zh"),
            ("__label__cmn_Hani", "zh"),
            ("__label__yue", "yue"),
            ("__label__arb_Arab", "ar"),
            ("__label__nob", "nb"),
            ("__label__no", "no"),
            ("__label__kmr_Latn", "kmr"),
            ("__label__als", "als"),
            ("__label__als_Latn", "sq"),
            ("__label__hsb", "hsb"),
            ("__label__fil_Latn", "fil"),
            ("", ""),
        ] {
            assert_eq!(code_of(label), code, "{label}");
        }
    }
}
