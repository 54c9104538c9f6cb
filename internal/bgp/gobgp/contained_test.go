package gobgp

import (
	"context"
	"log/slog"
	"net/netip"
	"testing"

	"github.com/belfrylb/belfry/internal/bgp"
	"github.com/belfrylb/belfry/internal/bgp/guard"
	"github.com/belfrylb/belfry/internal/lb"
)

func TestAPanicOverASessionEndsNothingElse(t *testing.T) {
	for _, a := range []string{"192.0.2.1", "2001:db8::1"} {
		address := netip.MustParseAddr(a)
		p := New(slog.New(slog.DiscardHandler))
		ctx, cancel := context.WithCancel(t.Context())
		s := newSession(p, bgp.Session{Peer: lb.BGPPeer{Name: "tor", MyASN: 65000, PeerASN: 65001, Address: address}}, cancel)
		p.sessions["tor"] = s
		s.wanted.Store(nil) // what nobody expects
		if up := s.contained(ctx, guard.TransportOf(s.transport, address)); up != 0 {
			t.Errorf("it was up for %v", up)
		}
		if v := p.Sessions()[0]; v.State != bgp.Idle || v.Fault == nil || v.Fault.Cause != bgp.InternalFault {
			t.Errorf("it shows %+v", v)
		}
	}
}
