package gobgp

import (
	"testing"
	"time"

	"github.com/belfrylb/belfry/internal/bgp"
)

func TestFRRHoldsOurRoutes(t *testing.T) {
	f := needFRR(t)
	for _, c := range []struct{ name, family, prefix, hop string }{
		{"v4", "ipv4", "198.51.100.1/32", ""},
		{"v6", "ipv6", "2001:db8:100::1/128", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			v4, v6 := f.sources()
			source := v4
			if c.name == "v6" {
				source = v6
			}
			p := f.neighbor(t, source, 65000)
			s := speak(t)
			s.say(p, route(c.prefix))
			start := time.Now()
			v := s.established(p.Name)
			t.Logf("established and sent after %v", time.Since(start))
			eventually(t, 5*time.Second, func() (bool, any) {
				r := f.routes(t, c.family, source)
				return r[c.prefix] != nil, r
			})
			if v.Negotiated.PeerAS != frrAS || v.Local.Addr() != source {
				t.Errorf("%+v", v)
			}
			s.say(p)
			eventually(t, 5*time.Second, func() (bool, any) {
				r := f.routes(t, c.family, source)
				return len(r) == 0, r
			})
			if v := s.view(p.Name); v.Sent != 0 || v.State != bgp.Established {
				t.Error(show(v))
			}
		})
	}
}
