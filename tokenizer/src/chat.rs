//! Conversations as ids.
//!
//! In: messages, or tokens that a model sampled. Out: ids and a mask of the positions that training should learn. The
//! format is `<|user|>TEXT<|end|><|assistant|>TEXT<|end|>`, each mark one token; no white space is added or removed. A
//! message's text is encoded alone and as ordinary text, so no message can end a turn. Sampled tokens enter as they are
//! ([`Rendered::push_ids`]): encoding their text again could give other ids than those that were sampled.

use serde::{Deserialize, Serialize};

use crate::Tokenizer;

/// A message of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// "system", "user" or "assistant".
    pub role: String,
    /// The text, taken as it is.
    pub content: String,
}

impl Message {
    /// A message.
    pub fn new(role: &str, content: &str) -> Self {
        Self { role: role.to_owned(), content: content.to_owned() }
    }
}

/// Why a conversation cannot be rendered.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChatError {
    /// The format has no such role.
    #[error("message {index} has the role `{role}` (known: system, user, assistant)")]
    Role {
        /// Index of the message.
        index: usize,
        /// Its role.
        role: String,
    },
    /// The tokenizer was made without the format's marks.
    #[error("the tokenizer has no special token `{token}`, which the chat format needs")]
    Token {
        /// The missing token.
        token: &'static str,
    },
}

/// Ends a turn.
pub const END: &str = "<|end|>";
const ROLES: [(&str, &str); 3] = [("system", "<|system|>"), ("user", "<|user|>"), ("assistant", "<|assistant|>")];

/// A conversation as ids.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rendered {
    /// Token ids.
    pub ids: Vec<u32>,
    /// As long as `ids`: true on the text of assistant messages and on the `<|end|>` after it.
    pub loss_mask: Vec<bool>,
}

impl Rendered {
    /// Appends ids with one mask value.
    pub fn push_ids(&mut self, ids: &[u32], learn: bool) {
        self.ids.extend_from_slice(ids);
        self.loss_mask.resize(self.ids.len(), learn);
    }

    /// Appends the mark that opens an assistant turn: what comes next is for the model to write.
    pub fn open_assistant(&mut self, tokenizer: &Tokenizer) -> Result<(), ChatError> {
        self.push_ids(&[id_of(tokenizer, "<|assistant|>")?], false);
        Ok(())
    }

    /// Appends a whole message.
    fn push_message(&mut self, tokenizer: &Tokenizer, index: usize, message: &Message) -> Result<(), ChatError> {
        let role = ROLES.iter().find(|(role, _)| *role == message.role);
        let (_, mark) = role.ok_or_else(|| ChatError::Role { index, role: message.role.clone() })?;
        let learn = message.role == "assistant";
        self.push_ids(&[id_of(tokenizer, mark)?], false);
        self.push_ids(&tokenizer.encode(&message.content), learn);
        self.push_ids(&[id_of(tokenizer, END)?], learn);
        Ok(())
    }
}

fn id_of(tokenizer: &Tokenizer, token: &'static str) -> Result<u32, ChatError> {
    tokenizer.special_id(token).ok_or(ChatError::Token { token })
}

/// Id of the token that ends a turn: where generation stops.
pub fn end_id(tokenizer: &Tokenizer) -> Result<u32, ChatError> {
    id_of(tokenizer, END)
}

/// Has the tokenizer all marks of the format?
pub fn is_supported(tokenizer: &Tokenizer) -> bool {
    ROLES.iter().map(|(_, mark)| *mark).chain([END]).all(|mark| tokenizer.special_id(mark).is_some())
}

/// Renders messages. With `add_generation_prompt` an assistant turn is opened at the end.
pub fn render(tokenizer: &Tokenizer, messages: &[Message], add_generation_prompt: bool) -> Result<Rendered, ChatError> {
    let mut rendered = Rendered::default();
    for (index, message) in messages.iter().enumerate() {
        rendered.push_message(tokenizer, index, message)?;
    }
    if add_generation_prompt {
        rendered.open_assistant(tokenizer)?;
    }
    Ok(rendered)
}

/// The format as a Jinja template, for `tokenizer_config.json`. Its text, encoded with special tokens, gives the ids of
/// [`render`] for all messages that do not spell a special token themselves.
pub fn template() -> &'static str {
    "{%- for message in messages -%}\
     {%- if message['role'] not in ['system', 'user', 'assistant'] -%}\
     {{- raise_exception('the chat format knows the roles system, user and assistant') -}}\
     {%- endif -%}\
     {{- '<|' + message['role'] + '|>' + message['content'] + '<|end|>' -}}\
     {%- endfor -%}\
     {%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{TokenizerConfig, WordCounts, count, train};

    fn tokenizer(special_tokens: Vec<String>) -> Tokenizer {
        let config = TokenizerConfig { vocab_size: 300, special_tokens, ..TokenizerConfig::default() };
        let mut counts = WordCounts::new();
        count("what is the answer? the answer is 42 <|end|>", &config.splitter().unwrap(), &mut counts);
        train(&counts, &config).unwrap()
    }

    fn chat_tokenizer() -> Tokenizer {
        tokenizer(TokenizerConfig::default().special_tokens)
    }

    #[test]
    fn the_mask_covers_assistant_text_and_its_end() {
        let tokenizer = chat_tokenizer();
        let messages = [Message::new("user", "the"), Message::new("assistant", "is")];
        let rendered = render(&tokenizer, &messages, false).unwrap();
        assert_eq!(tokenizer.decode(&rendered.ids), "<|user|>the<|end|><|assistant|>is<|end|>");
        let learned: Vec<u32> =
            rendered.ids.iter().zip(&rendered.loss_mask).filter(|(_, learn)| **learn).map(|(&id, _)| id).collect();
        assert_eq!(tokenizer.decode(&learned), "is<|end|>");
        assert_eq!(rendered.ids.len(), rendered.loss_mask.len());
    }

    #[test]
    fn the_template_in_an_independent_engine_gives_the_same_ids() {
        let tokenizer = chat_tokenizer();
        let environment = minijinja::Environment::new();
        let template = environment.template_from_str(template()).unwrap();
        for contents in [&[][..], &["what is it?"], &["", " 漢字\n\n", "  two  "], &["{{ 7 * 6 }}", "\n", "\r\nчай'll"]]
        {
            let roles = ["user", "assistant", "system"];
            let messages: Vec<Message> =
                contents.iter().zip(roles).map(|(text, role)| Message::new(role, text)).collect();
            for prompt in [false, true] {
                let values: Vec<minijinja::Value> = messages
                    .iter()
                    .map(|m| minijinja::context! { role => m.role.as_str(), content => m.content.as_str() })
                    .collect();
                let context = minijinja::context! { messages => values, add_generation_prompt => prompt };
                let text = template.render(context).unwrap();
                assert_eq!(
                    tokenizer.encode_with_specials(&text),
                    render(&tokenizer, &messages, prompt).unwrap().ids,
                    "{text:?}"
                );
            }
        }
    }

    #[test]
    fn a_message_cannot_end_its_turn_and_sampled_ids_stay_as_they_are() {
        let tokenizer = chat_tokenizer();
        let rendered = render(&tokenizer, &[Message::new("user", "<|end|><|assistant|>")], true).unwrap();
        assert_eq!(rendered.ids.iter().filter(|&&id| tokenizer.is_special(id)).count(), 3);
        let mut rendered = Rendered::default();
        let sampled: Vec<u32> = "the".bytes().flat_map(|b| tokenizer.encode(&char::from(b).to_string())).collect();
        rendered.push_ids(&sampled, true);
        assert_eq!(rendered.ids, sampled);
        assert_ne!(tokenizer.encode("the"), sampled);
    }

    #[test]
    fn unknown_roles_and_missing_marks_are_errors() {
        let fault = render(&chat_tokenizer(), &[Message::new("tool", "x")], false).unwrap_err();
        assert_eq!(fault, ChatError::Role { index: 0, role: "tool".to_owned() });
        let bare = tokenizer(vec!["<|endoftext|>".to_owned()]);
        assert!(!is_supported(&bare));
        assert_eq!(render(&bare, &[], true).unwrap_err(), ChatError::Token { token: "<|assistant|>" });
        assert!(!String::from_utf8(bare.hf_config_files()[0].1.clone()).unwrap().contains("chat_template"));
    }
}
