package membership

// metaWatched, in a member's meta, says that it can be watched by sessions on its
// segments, and understands words.
const metaWatched = 1

func isWatchable(meta []byte) bool { return len(meta) > 0 && meta[0]&metaWatched != 0 }

// A word is what one member tells another of a third. Members that cannot be watched
// do not understand it and are told none.
type word struct {
	kind        wordKind
	from, about string
}

type wordKind byte

const (
	// wordAlarm: it is out of sight, and has not answered yet.
	wordAlarm wordKind = 1
	// wordDenial: it answers.
	wordDenial wordKind = 2
	// wordVersion is the first byte of a word; that of a record is its version.
	wordVersion = 2
)

// encodeWord returns a word in wire form: version, kind, names.
func encodeWord(k wordKind, from, about string) []byte {
	return appendText(appendText([]byte{wordVersion, byte(k)}, from), about)
}

func decodeWord(b []byte) (word, error) {
	d := decoder{rest: b}
	d.want(d.byte() == wordVersion)
	w := word{kind: wordKind(d.byte()), from: d.text(maxNode), about: d.text(maxNode)}
	d.want(w.kind == wordAlarm || w.kind == wordDenial)
	d.want(w.from != "" && w.about != "" && len(d.rest) == 0)
	if !d.ok() {
		return word{}, errMalformed
	}
	return w, nil
}
