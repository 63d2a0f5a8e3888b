/**
 * How much of anything the page takes. Everything is finite: files, answers, what is kept.
 */

/** Bytes of all conversations that are kept in this browser. */
export const KEPT_BYTES = 64 * 1024 * 1024;

/** Bytes of one conversation. */
export const CONVERSATION_BYTES = 16 * 1024 * 1024;

/** Messages of one conversation, all branches together. */
export const CONVERSATION_MESSAGES = 5000;

/** Bytes of one attached file. */
export const FILE_BYTES = 256 * 1024;

/** Files of one message. */
export const FILES = 8;

/** Characters of one answer; a stream that goes on is ended there. */
export const ANSWER_CHARACTERS = 4 * 1024 * 1024;

/** Characters of one line of a stream of events. */
export const EVENT_CHARACTERS = 1024 * 1024;

/** Characters of a conversation's title. */
export const TITLE_CHARACTERS = 120;
