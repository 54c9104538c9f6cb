package digest

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

func TestWhatHappensAloneIsToldAtOnceAndABurstTogether(t *testing.T) {
	for _, c := range []struct {
		name string
		// facts are "SECONDS kind fact.." or "SECONDS" to look; want is what is told
		// after each, and at the end.
		facts, want string
	}{
		{"one", "0 up 192.0.2.1", "up[192.0.2.1]"},
		{"one of each family", "0 up 192.0.2.1 2001:db8::1", "up[192.0.2.1 2001:db8::1]"},
		{"a burst", "0 up a, 0.1 up b, 0.5 up c, 0.9, 1", "up[a], -, -, -, up[b c]"},
		{"two kinds do not wait for each other", "0 up a, 0.1 down b, 0.2 up c, 0.3 down d, 1, 1.1", "up[a], down[b], -, -, up[c], down[d]"},
		{"the pause begins anew", "0 up a, 0.5 up b, 1, 1.5 up c, 2", "up[a], -, up[b], -, up[c]"},
		{"after a pause", "0 up a, 1 up b", "up[a], up[b]"},
		{"the end", "0 up a, 0.1 up b, 0.2 down c", "up[a], -, down[c], rest up[b]"},
	} {
		var d Digest[string, string]
		var got []string
		say := func(all []Burst[string, string]) string {
			var texts []string
			for _, b := range all {
				texts = append(texts, b.Kind+fmt.Sprint(b.Facts))
			}
			return strings.Join(texts, " ")
		}
		for fact := range strings.SplitSeq(c.facts, ", ") {
			words := strings.Fields(fact)
			var seconds float64
			if _, err := fmt.Sscan(words[0], &seconds); err != nil {
				t.Fatal(err)
			}
			if len(words) > 1 {
				for _, f := range words[2:] {
					d.Add(words[1], f)
				}
			}
			told := say(d.Take(time.Unix(0, int64(seconds*1e9))))
			if told == "" {
				told = "-"
			}
			got = append(got, told)
		}
		if rest := d.Rest(); len(rest) > 0 {
			got = append(got, "rest "+say(rest))
		}
		if is := strings.Join(got, ", "); is != c.want {
			t.Errorf("%s:\n%s\nwant\n%s", c.name, is, c.want)
		}
	}
}

// Whatever comes when: nothing is lost or told twice, each kind is told once in a pause
// at most, and who looks at the time that Next says finds something.
func TestNothingIsLostAndNoKindIsToldTwiceInAPause(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 1))
		var d Digest[int, int]
		last, seen := map[int]time.Time{}, map[int]bool{}
		now, added := time.Unix(0, 0), 0
		take := func(all []Burst[int, int], paced bool) {
			for _, b := range all {
				if at, before := last[b.Kind]; paced && before && now.Sub(at) < Pause {
					t.Errorf("seed %d: kind %d is told %v after it was", seed, b.Kind, now.Sub(at))
				}
				last[b.Kind] = now
				for _, f := range b.Facts {
					if seen[f] || f%3 != b.Kind {
						t.Errorf("seed %d: fact %d is told as %d, before: %v", seed, f, b.Kind, seen[f])
					}
					seen[f] = true
				}
			}
		}
		for range 100 {
			now = now.Add(time.Duration(r.IntN(400)) * time.Millisecond)
			for range r.IntN(3) {
				d.Add(added%3, added)
				added++
			}
			take(d.Take(now), true)
			if next := d.Next(); !next.IsZero() {
				if !next.After(now) {
					t.Fatalf("seed %d: what is due at %v is not taken at %v", seed, next, now)
				}
				if r.IntN(4) == 0 {
					now = next
					all := d.Take(now)
					if len(all) == 0 {
						t.Fatalf("seed %d: nothing is due at %v", seed, next)
					}
					take(all, true)
				}
			}
		}
		take(d.Rest(), false)
		if len(seen) != added || !d.Next().IsZero() {
			t.Errorf("seed %d: %d of %d facts are told, next %v", seed, len(seen), added, d.Next())
		}
	}
}

func TestALineHasFewWords(t *testing.T) {
	for words, want := range map[string]string{
		"":                  "",
		"2001:db8::1 n2":    "2001:db8::1 n2",
		"a b c d e f g h":   "a b c d e f g h",
		"a b c d e f g h i": "a b c d e f g h ...",
	} {
		if got := Few(strings.Fields(words)); got != want {
			t.Errorf("%q: %q, want %q", words, got, want)
		}
	}
}
