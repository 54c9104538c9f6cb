package gossipkey

import (
	"encoding/hex"
	"fmt"
	"strings"
	"testing"
	"time"
)

// The values are what `printf 0123456789abcdefghijklmn | sha256sum` prints, and, for the
// ID, `printf 0123456789abcdefghijklmn | sha256sum | xxd -r -p | sha256sum | head -c 8`.
func TestTheGossipKeyIsTheHashOfTheWholeText(t *testing.T) {
	k, err := Of([]byte("0123456789abcdefghijklmn"))
	if want := "d5ea2aa9223ac1fa43ccec70b30962690fcfc6686857f99a0c4b2963cf8bee4b"; err != nil || hex.EncodeToString(k[:]) != want {
		t.Errorf("%s, %v; want %s", hex.EncodeToString(k[:]), err, want)
	}
	if got, want := k.ID(), ID("d441145f"); got != want {
		t.Errorf("ID %s, want %s", got, want)
	}
	if _, err := Of([]byte("too short")); err == nil || !strings.Contains(err.Error(), "9 bytes") {
		t.Errorf("a short text: %v", err)
	}
	if Key.ID(Key{}) != "" {
		t.Error("no key has an ID")
	}
}

func TestAKeyIsNeverShown(t *testing.T) {
	k := Key{1, 2, 3}
	r := Ring{k, Key{4}}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d", "%q"} {
		text := fmt.Sprintf(verb, k) + fmt.Sprintf(verb, r) + fmt.Sprintf(verb, Secret{Key: k})
		if !strings.Contains(text, string(k.ID())) || strings.Contains(text, "0102") || strings.Contains(text, "1 2 3") || strings.Contains(text, "0x1") {
			t.Errorf("%s: %s", verb, text)
		}
	}
}

func TestASpeakerFollowsTheSecret(t *testing.T) {
	var none Key
	a, b, c := Key{1}, Key{2}, Key{3}
	for _, x := range []struct {
		what string
		has  Ring
		is   Secret
		want Ring
	}{
		{"nothing changes", Ring{Send: a}, Secret{Key: a}, Ring{Send: a}},
		{"the next is accepted", Ring{Send: a}, Secret{Key: a, Next: b}, Ring{a, b}},
		{"it is used", Ring{a, b}, Secret{Key: b, Previous: a}, Ring{b, a}},
		{"the previous goes", Ring{b, a}, Secret{Key: b}, Ring{Send: b}},
		{"a step was missed", Ring{Send: a}, Secret{Key: b, Previous: a}, Ring{b, a}},
		{"the previous counts first", Ring{b, a}, Secret{Key: b, Previous: a, Next: c}, Ring{b, a}},
		{"another is written by hand", Ring{Send: a}, Secret{Key: b}, Ring{a, b}},
		{"that is mended, where it was not used", Ring{a, b}, Secret{Key: a, Next: b}, Ring{a, b}},
		{"and where it was", Ring{Send: b}, Secret{Key: a, Next: b}, Ring{b, a}},
		{"the text is lost", Ring{Send: a}, Secret{Next: b, Lost: []ID{a.ID()}}, Ring{a, b}},
		{"the new one is used", Ring{a, b}, Secret{Key: b, Lost: []ID{a.ID()}}, Ring{b, a}},
		{"the lost one is accepted still", Ring{b, a}, Secret{Key: b, Lost: []ID{a.ID()}}, Ring{b, a}},
		{"until it goes", Ring{b, a}, Secret{Key: b}, Ring{Send: b}},
		{"it uses the new one already", Ring{b, a}, Secret{Next: b, Lost: []ID{a.ID()}}, Ring{b, a}},
		{"the Secret is empty", Ring{a, b}, Secret{}, Ring{a, b}},
	} {
		if got := Follow(x.has, x.is); got != x.want {
			t.Errorf("%s: %v, want %v", x.what, got, x.want)
		}
	}
	for _, x := range []struct {
		is   Secret
		want Ring
	}{
		{Secret{Key: a}, Ring{Send: a}},
		{Secret{Key: a, Next: b}, Ring{a, b}},
		{Secret{Key: b, Previous: a}, Ring{b, a}},
		{Secret{Key: b, Previous: a, Next: c}, Ring{b, a}},
		{Secret{}, Ring{Send: none}},
		{Secret{Next: b, Lost: []ID{a.ID()}}, Ring{}},
		{Secret{Key: b, Lost: []ID{a.ID()}}, Ring{}},
	} {
		got, err := Begin(x.is)
		if got != x.want || (err == nil) != (x.want != Ring{}) {
			t.Errorf("a speaker starts with %+v: %v, %v; want %v", x.is, got, err, x.want)
		}
	}
}

// A step waits for those that live, names them and why, and for nobody else.
func TestAStepWaitsForAllThatLive(t *testing.T) {
	a, b := Key{1}, Key{2}
	both, old := Ring{a, b}.Use("5"), Ring{Send: a}.Use("5")
	is := State{Exists: true, Version: "5", Secret: Secret{Key: a, Next: b}}
	at := time.Unix(1000, 0)
	all := func(third Speaker) []Speaker {
		third.Node = "n3"
		return []Speaker{{Node: "n1", Use: both}, {Node: "n2", Use: both}, third}
	}
	var r Rotation
	for _, x := range []struct {
		third Speaker
		want  string
	}{
		{Speaker{Use: old}, "n3 does not accept the new key"},
		{Speaker{}, "n3 does not say which keys it uses"},
		{Speaker{Use: Ring{a, b}.Use("4")}, "n3 has not seen the Secret as it is now"},
		{Speaker{Use: both}, ""},
		{Speaker{Idle: true}, ""},
	} {
		v := r.Decide(at, is, all(x.third))
		if got := Describe(v.Waits); got != x.want || (v.Step == Promote) != (x.want == "") {
			t.Errorf("%+v: %v, %q; want %q", x.third, v.Step, got, x.want)
		}
	}
	// Who is lost for a moment counts; for half a minute it does not.
	r = Rotation{}
	r.Decide(at, is, all(Speaker{Use: old}))
	rest := all(Speaker{})[:2]
	if v := r.Decide(at.Add(Memory-1), is, rest); v.Step != Stay || len(v.Waits) != 1 || v.Again != at.Add(Memory) {
		t.Errorf("a speaker lost just now: %+v", v)
	}
	if v := r.Decide(at.Add(Memory), is, rest); v.Step != Promote {
		t.Errorf("a speaker lost long ago: %+v", v)
	}
	// A person may go on without it.
	r, is.Without = Rotation{}, []string{"n3"}
	if v := r.Decide(at, is, all(Speaker{Use: old})); v.Step != Promote {
		t.Errorf("without n3: %+v", v)
	}
	// The old key goes once all have sent with the new one for a while, without a break.
	is = State{Exists: true, Version: "5", Secret: Secret{Key: b, Previous: a}}
	done := all(Speaker{Use: Ring{b, a}.Use("5")})
	for i := range done {
		done[i].Use = Ring{b, a}.Use("5")
	}
	r = Rotation{}
	if v := r.Decide(at, is, all(Speaker{Use: both})); Describe(v.Waits) != "n1 still sends with the old key, n2 still sends with the old key, n3 still sends with the old key" {
		t.Errorf("%v", v)
	}
	for _, x := range []struct {
		after    time.Duration
		speakers []Speaker
		want     Step
	}{
		{0, done, Stay},
		{5 * time.Second, append(done[:2:2], Speaker{Node: "n3", Use: both}), Stay},
		{6 * time.Second, done, Stay},
		{16*time.Second - 1, done, Stay},
		{16 * time.Second, done, Retire},
	} {
		if v := r.Decide(at.Add(x.after), is, x.speakers); v.Step != x.want {
			t.Errorf("after %v: %+v, want %v", x.after, v, x.want)
		}
	}
	if got := Describe(make([]Wait, 7)); !strings.HasSuffix(got, " and others") || strings.Count(got, "does not") != 5 {
		t.Errorf("seven: %q", got)
	}
}

// Nobody makes a key while speakers have one.
func TestAKeyIsInventedOnlyWhereNobodyHasOne(t *testing.T) {
	a := Key{1}
	for _, x := range []struct {
		what     string
		speakers []Speaker
		want     Step
	}{
		{"nobody runs", nil, Create},
		{"all wait", []Speaker{{Node: "n1", Idle: true}}, Create},
		{"one has a key", []Speaker{{Node: "n1", Use: Ring{Send: a}.Use("5")}, {Node: "n2", Idle: true}}, Bridge},
		{"one does not say", []Speaker{{Node: "n1"}}, Stay},
	} {
		var r Rotation
		v := r.Decide(time.Unix(1, 0), State{}, x.speakers)
		if v.Step != x.want {
			t.Errorf("%s: %+v, want %v", x.what, v, x.want)
		}
	}
}
