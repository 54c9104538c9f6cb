package gobgp

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/belfrylb/belfry/internal/bgp"
	"github.com/belfrylb/belfry/internal/bgp/guard"
	"github.com/belfrylb/belfry/internal/bgp/wire"
	"github.com/belfrylb/belfry/internal/lb"
)

// Every field of a peer is of the session's transport, whose change takes another session,
// or it is not, and its change costs nothing. Nor does it to write down what is meant
// anyhow.
func TestASessionStaysUntilItsTransportChanges(t *testing.T) {
	peer := lb.BGPPeer{
		Name: "tor", MyASN: 65000, PeerASN: 65001, Address: netip.MustParseAddr("2001:db8::1"), Port: 179,
		HoldTime: 90 * time.Second, Password: lb.NewSecret("one"), GracefulRestart: &lb.GracefulRestart{RestartTime: time.Minute},
	}
	type edit func(*lb.BGPPeer)
	// stay and reset are edits by the field that they change.
	stay := map[string][]edit{
		"Created":         {func(p *lb.BGPPeer) { p.Created = time.Unix(1, 0) }},
		"NodeSelectors":   {func(p *lb.BGPPeer) { p.NodeSelectors = []lb.Selector{{}} }},
		"ConnectTime":     {func(p *lb.BGPPeer) { p.ConnectTime = time.Second }},
		"MaximumPrefixes": {func(p *lb.BGPPeer) { p.MaximumPrefixes = 7 }},
		"BFD":             {func(p *lb.BGPPeer) { p.BFD = &lb.BFDProfile{Name: "fast"} }},
		"ShutdownMessage": {func(p *lb.BGPPeer) { p.ShutdownMessage = "for later" }},
		"PasswordFault":   {func(p *lb.BGPPeer) { p.PasswordFault, p.Password = "Secret tor does not exist", lb.Secret{} }},
		// What is meant anyhow.
		"Port":            {func(p *lb.BGPPeer) { p.Port = 0 }},
		"LocalASN":        {func(p *lb.BGPPeer) { p.LocalASN = 65000 }},
		"KeepaliveTime":   {func(p *lb.BGPPeer) { p.KeepaliveTime = 30 * time.Second }},
		"Families":        {func(p *lb.BGPPeer) { p.Families = []lb.Family{lb.IPv6} }},
		"Password":        {func(p *lb.BGPPeer) { p.Password = lb.NewSecret("one") }},
		"GracefulRestart": {func(p *lb.BGPPeer) { p.GracefulRestart = &lb.GracefulRestart{RestartTime: time.Minute} }},
	}
	reset := map[string][]edit{
		"Name":            {func(p *lb.BGPPeer) { p.Name = "spine" }},
		"MyASN":           {func(p *lb.BGPPeer) { p.MyASN = 65002 }},
		"LocalASN":        {func(p *lb.BGPPeer) { p.LocalASN = 65002 }},
		"PeerASN":         {func(p *lb.BGPPeer) { p.PeerASN = 65002 }},
		"Kind":            {func(p *lb.BGPPeer) { p.Kind = lb.PeerExternal }},
		"Role":            {func(p *lb.BGPPeer) { p.Role = lb.RoleCustomer }},
		"RequireRole":     {func(p *lb.BGPPeer) { p.RequireRole = true }},
		"Address":         {func(p *lb.BGPPeer) { p.Address = netip.MustParseAddr("2001:db8::2") }},
		"Interface":       {func(p *lb.BGPPeer) { p.Interface = "eth0" }},
		"Port":            {func(p *lb.BGPPeer) { p.Port = 1790 }},
		"Source":          {func(p *lb.BGPPeer) { p.Source = netip.MustParseAddr("2001:db8::9") }},
		"RouterID":        {func(p *lb.BGPPeer) { p.RouterID = netip.MustParseAddr("192.0.2.9") }},
		"HoldTime":        {func(p *lb.BGPPeer) { p.HoldTime = 9 * time.Second }},
		"KeepaliveTime":   {func(p *lb.BGPPeer) { p.KeepaliveTime = 29 * time.Second }},
		"EBGPMultiHop":    {func(p *lb.BGPPeer) { p.EBGPMultiHop = true }},
		"TTLSecurity":     {func(p *lb.BGPPeer) { p.TTLSecurity = 1 }},
		"Password":        {func(p *lb.BGPPeer) { p.Password = lb.NewSecret("two") }, func(p *lb.BGPPeer) { p.Password = lb.Secret{} }},
		"GracefulRestart": {func(p *lb.BGPPeer) { p.GracefulRestart = nil }, func(p *lb.BGPPeer) { p.GracefulRestart = &lb.GracefulRestart{RestartTime: time.Hour} }},
		"Families":        {func(p *lb.BGPPeer) { p.Families = []lb.Family{lb.IPv4, lb.IPv6} }},
		"VRF":             {func(p *lb.BGPPeer) { p.VRF = "blue" }},
		"Shutdown":        {func(p *lb.BGPPeer) { p.Shutdown = true }},
	}
	s := newSession(New(slog.New(slog.DiscardHandler)), bgp.Session{Peer: peer}, func() {})
	if !s.fits(peer) {
		t.Error("it does not fit its own peer")
	}
	for f := range reflect.TypeFor[lb.BGPPeer]().Fields() {
		if len(stay[f.Name])+len(reset[f.Name]) == 0 {
			t.Errorf("does a change of %s take another session?", f.Name)
		}
		for want, edits := range map[bool][]edit{true: stay[f.Name], false: reset[f.Name]} {
			for i, e := range edits {
				p := peer
				if e(&p); s.fits(p) != want {
					t.Errorf("%s, edit %d: it fits: %v, want %v", f.Name, i, !want, want)
				}
			}
		}
	}
}

// The attempt that a session makes when it is told to leave may throw away how: it takes
// that for an ending of the connection before. The router hears it all the same.
func TestASessionLeavesAsItIsToldThoughItHasJustConnected(t *testing.T) {
	for name, listen := range map[string]func(*testing.T) *router{"127.0.0.1": newRouter, "::1": newRouter6} {
		t.Run(name, func(t *testing.T) {
			s := speak(t)
			r := listen(t)
			s.say(r.peer, route("198.51.100.1/32"))
			c := r.establish()
			s.established(r.peer.Name)
			s.Peering.mu.Lock()
			session := s.sessions[r.peer.Name]
			session.leaving, session.farewell = true, stopping(false)
			s.Peering.mu.Unlock()
			session.cancel() // and nothing in endings
			if n := c.notified(); n.Code != wire.CodeCease || n.Subcode != wire.CeaseShutdown {
				t.Errorf("%v", n)
			}
			c.Close()
			<-session.gone
		})
	}
}

// BFD that cannot be had, for whatever reason, is told of once, and tried again; the
// session does without.
func TestBFDThatCannotBeHadIsToldOnce(t *testing.T) {
	if os.Getenv(labChild) != childNode {
		t.Skip("SKIPPED, BFD's ports are those of the machine")
	}
	for name, listen := range map[string]func(*testing.T) *router{"127.0.0.1": newRouter, "::1": newRouter6} {
		t.Run(name, func(t *testing.T) {
			var logged monitor
			p := New(slog.New(slog.NewTextHandler(&logged, nil)))
			p.watchAgain = time.Millisecond
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan struct{})
			go func() { defer close(done); _ = p.Run(ctx) }()
			t.Cleanup(func() { cancel(); <-done })
			s := &speaker{Peering: p, t: t}
			one, two := listen(t), listen(t)
			profile := fast
			profile.DetectMultiplier = 50 // for a machine that is busy with other things
			for i, r := range []*router{one, two} {
				r.peer.BFD = &profile
				r.peer.Name = []string{"one", "two"}[i]
			}
			up := func(sessions ...*router) {
				t.Helper()
				var all []bgp.Session
				for _, r := range sessions {
					all = append(all, bgp.Session{Peer: r.peer, RouterID: routerID})
				}
				s.Set(all)
				c := sessions[len(sessions)-1].establish()
				c.drain()
				c.talk()
			}
			says := func(name, words string) {
				t.Helper()
				eventually(t, within, func() (bool, any) {
					v := s.view(name)
					return v.State == bgp.Established && v.BFD == "Down" && strings.Contains(v.BFDFault, words), show(v) + " " + v.BFDFault
				})
			}
			up(one)
			s.seesUp(t, "one") // on loopback BFD has itself for a neighbor
			up(one, two)
			says("two", "the path is watched already, by another session; this one has its hold time alone")
			told := func() int {
				logged.mu.Lock()
				defer logged.mu.Unlock()
				return strings.Count(logged.out.String(), "cannot run BFD; will retry")
			}
			// It is tried again and again, until the path is free.
			before := s.view("one").Counters.MessagesIn
			eventually(t, within, func() (bool, any) { n := s.view("one").Counters.MessagesIn; return n > before+1, n })
			s.Set([]bgp.Session{{Peer: two.peer, RouterID: routerID}})
			eventually(t, within, func() (bool, any) {
				v := s.view("two")
				return v.State == bgp.Established && !strings.Contains(v.BFDFault, "watched already"), v.BFDFault
			})
			if n := told(); n != 1 {
				t.Errorf("it is logged %d times", n)
			}
		})
	}
}

func TestBFDKnowsHowFarARouterMayBe(t *testing.T) {
	for _, c := range []struct {
		name             string
		peer             lb.BGPPeer
		internal, onLink bool
		want             bool
	}{
		{"external, next door", lb.BGPPeer{}, false, true, false},
		{"external, on no subnet of ours, with a TTL of 1 all the same", lb.BGPPeer{}, false, false, false},
		{"external, far away", lb.BGPPeer{EBGPMultiHop: true}, false, false, true},
		{"external, may be far away", lb.BGPPeer{EBGPMultiHop: true}, false, true, true},
		{"one hop by TTL security", lb.BGPPeer{TTLSecurity: 1}, false, true, false},
		{"two hops by TTL security", lb.BGPPeer{TTLSecurity: 2}, false, false, true},
		{"internal, next door", lb.BGPPeer{}, true, true, false},
		{"internal, elsewhere", lb.BGPPeer{}, true, false, true},
	} {
		if got := farOff(c.peer, c.internal, c.onLink); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
	for address, want := range map[string]bool{"127.0.0.9": true, "::1": true, "203.0.113.254": false, "2001:db8:ffff::1": false} {
		if got := guard.OnLink(netip.MustParseAddr(address)); got != want {
			t.Errorf("%s is on link: %v", address, got)
		}
	}
}

// BFD does not begin without its key, and goes on with the one that it has when that
// cannot be read any more.
func TestBFDBeginsWithItsKeyAndKeepsIt(t *testing.T) {
	if os.Getenv(labChild) != childNode {
		t.Skip("SKIPPED, BFD's ports are those of the machine")
	}
	for name, listen := range map[string]func(*testing.T) *router{"127.0.0.1": newRouter, "::1": newRouter6} {
		t.Run(name, func(t *testing.T) {
			s := speak(t)
			r := listen(t)
			const fault = "Secret bfd does not exist; BFD does not begin without the key"
			says := func(how lb.BFDAuthentication, keyFault string, keys ...lb.BFDKey) {
				profile := fast
				profile.DetectMultiplier = 50 // for a machine that is busy with other things
				profile.Authentication, profile.Keys, profile.KeyFault = how, keys, keyFault
				r.peer.BFD = &profile
				s.say(r.peer)
			}
			is := func(state, why string) {
				t.Helper()
				eventually(t, within, func() (bool, any) {
					v := s.view(r.peer.Name)
					return v.State == bgp.Established && v.BFD == state && v.BFDFault == why, fmt.Sprintf("%s BFD %s %q", show(v), v.BFD, v.BFDFault)
				})
			}
			says(lb.BFDKeyedSHA1, fault, lb.BFDKey{ID: 1})
			c := r.establish()
			c.drain()
			c.talk()
			is("Down", fault)
			// On loopback BFD has itself for a neighbor.
			says(lb.BFDKeyedSHA1, "", lb.BFDKey{ID: 1, Password: lb.NewSecret("one")})
			is("Up", "")
			says(lb.BFDKeyedSHA1, fault, lb.BFDKey{ID: 1})
			says(lb.BFDKeyedSHA1, fault, lb.BFDKey{ID: 1})
			before := s.view(r.peer.Name).Counters.MessagesIn
			eventually(t, within, func() (bool, any) { n := s.view(r.peer.Name).Counters.MessagesIn; return n > before+1, n })
			is("Up", "")
			r.peer.BFD = nil
			s.say(r.peer)
			is("", "")
			if v := s.view(r.peer.Name); v.Counters.Flaps != 0 {
				t.Errorf("%s %+v", show(v), v.Counters)
			}
		})
	}
}
