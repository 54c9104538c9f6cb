package proof

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/belfrylb/belfry/internal/lb"
)

func TestARequestIsAnAddressAndAWord(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"203.0.113.10", "203.0.113.10"},
		{" 203.0.113.10  x1 ", "203.0.113.10"},
		{"2001:db8::1 x1", "2001:db8::1"},
		{"::ffff:203.0.113.10 x1", "203.0.113.10"},
		{"fe80::1", "fe80::1"},
		{"", ""},
		{"   ", ""},
		{"203.0.113.10 x 1", ""},
		{"203.0.113.0/24", ""},
		{"example.com", ""},
		{"0.0.0.0", ""},
		{"::", ""},
		{"224.0.0.1", ""},
		{"ff02::1", ""},
		{"127.0.0.1", ""},
		{"::1", ""},
		{"fe80::1%eth0", ""},
		{"203.0.113.10 " + strings.Repeat("x", RequestMost-13), "203.0.113.10"},
		{"203.0.113.10 " + strings.Repeat("x", RequestMost-12), ""},
	} {
		got, err := ParseRequest(c.text)
		if is := got.Address; (err != nil) != (c.want == "") || err == nil && is != netip.MustParseAddr(c.want) {
			t.Errorf("%q: %v, %v, want %q", c.text, is, err, c.want)
		}
	}
}

func FuzzRequest(f *testing.F) {
	for _, seed := range []string{"203.0.113.10 x", "2001:db8::1", "", "\x00", "fe80::1%\xff"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		r, err := ParseRequest(text)
		if err == nil && (!r.Address.IsValid() || r.Address.Is4In6() || r.Address.Zone() != "" || len(text) > RequestMost) {
			t.Errorf("%q is taken for %v", text, r.Address)
		}
	})
}

func TestAResponseHasTheFirstToAnswerFirst(t *testing.T) {
	a, b := lb.MAC{2, 1}, lb.MAC{2, 2}
	for _, address := range []netip.Addr{netip.MustParseAddr("203.0.113.10"), netip.MustParseAddr("2001:db8::1")} {
		q := Request{address}.Question(7)
		start := time.Unix(1000, 0)
		round := NewRound(start, q)
		frames := 0
		for now, answered := start, false; ; {
			ask, wake := round.Next(now)
			if frames += len(ask); wake.IsZero() {
				break
			}
			if !answered {
				round.Hear(now.Add(9*time.Millisecond), address, b)
				round.Hear(now.Add(2*time.Millisecond), address, a)
				answered = true
			}
			now = wake
		}
		if frames != Repeats || q.Interface != 7 {
			t.Errorf("%v is asked for by %d frames on %d, want %d", address, frames, q.Interface, Repeats)
		}
		got := Respond(round.Answers(), func(mac lb.MAC, of netip.Addr) (string, Voice) {
			if mac == a && of == address {
				return "n1", Kernel
			}
			return "", Stranger
		})
		want := []Heard{{Station{a, "n1", Kernel}, 2 * time.Millisecond}, {Station{b, "", Stranger}, 9 * time.Millisecond}}
		if len(got) != 2 || got[0] != want[0] || got[1] != want[1] {
			t.Errorf("%v: %v, want %v", address, got, want)
		}
	}
}
