package membership

import (
	"bytes"
	"testing"
)

func TestWordsAreReadAsTheyWereWritten(t *testing.T) {
	for _, w := range []word{{wordAlarm, "n1", "n2"}, {wordDenial, "a.example", "b.example"}} {
		b := encodeWord(w.kind, w.from, w.about)
		if got, err := decodeWord(b); err != nil || got != w {
			t.Errorf("%+v, %v; want %+v", got, err, w)
		}
		for _, spoilt := range [][]byte{b[:len(b)-1], append(bytes.Clone(b), 0), {wordVersion, 3, 1, 'a', 1, 'b'}, {wordVersion, 1, 0, 1, 'b'}, {1, 1, 1, 'a', 1, 'b'}, {}} {
			if got, err := decodeWord(spoilt); err == nil {
				t.Errorf("%x is read as %+v", spoilt, got)
			}
		}
	}
}

func FuzzWord(f *testing.F) {
	f.Add(encodeWord(wordAlarm, "n1", "n2"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if w, err := decodeWord(b); err == nil && !bytes.Equal(encodeWord(w.kind, w.from, w.about), b) {
			t.Errorf("%x is another form of %+v", b, w)
		}
	})
}
