package gobgp

import (
	"context"
	"reflect"

	"github.com/belfrylb/belfry/internal/bfd"
	"github.com/belfrylb/belfry/internal/bfd/udp"
	"github.com/belfrylb/belfry/internal/bgp"
	"github.com/belfrylb/belfry/internal/bgp/guard"
	"github.com/belfrylb/belfry/internal/bgp/wire"
	"github.com/belfrylb/belfry/internal/lb"
)

// A watch is BFD on the path of an established session.
type watch struct {
	profile lb.BFDProfile
	// profiles carries changes of the profile.
	profiles chan lb.BFDProfile
	cancel   context.CancelFunc
	gone     chan struct{}
}

// followBFD starts, changes or stops BFD as is wanted now. A key that cannot be had
// is no reason to end what runs with it, and nothing begins without it. BFD lives as long as
// the connection, whose ends it watches; and because it tells the other end when
// it stops, a session that ends for another reason is no failure of the path.
func (s *session) followBFD(n bgp.Negotiated) {
	profile := s.wanted.Load().Peer.BFD
	switch {
	case profile == nil || s.transport.VRF != "":
		s.unwatch()
	case profile.KeyFault != "" && s.watch == nil:
		s.change(func(v *bgp.SessionView) { v.BFD, v.BFDFault = bfd.Down.String(), profile.KeyFault })
	case profile.KeyFault != "":
	case s.watch == nil:
		s.startWatch(n, *profile)
	case !reflect.DeepEqual(s.watch.profile, *profile):
		s.watch.profile = *profile
		select {
		case <-s.watch.profiles: // overtaken
		default:
		}
		s.watch.profiles <- *profile
	}
}

func (s *session) startWatch(n bgp.Negotiated, profile lb.BFDProfile) {
	s.mu.Lock()
	path := udp.Path{
		Local: s.view.Local.Addr(), Remote: s.view.Remote.Addr(),
		Multihop: farOff(s.transport, n.Internal, guard.OnLink(s.view.Remote.Addr())),
	}
	s.mu.Unlock()
	ctx, cancel := context.WithCancel(context.Background())
	w := &watch{profile: profile, profiles: make(chan lb.BFDProfile, 1), cancel: cancel, gone: make(chan struct{})}
	s.watch = w
	s.change(func(v *bgp.SessionView) { v.BFD, v.BFDFault = bfd.Down.String(), "" })
	go func() {
		defer close(w.gone)
		told := ""
		for ctx.Err() == nil {
			err := s.peering.monitor.Watch(ctx, path, profile, w.profiles, s.pathChanged)
			if err == nil {
				continue
			}
			if told != err.Error() {
				told = err.Error()
				s.log.Warn("cannot run BFD; will retry", "err", err)
			}
			s.change(func(v *bgp.SessionView) { v.BFDFault = err.Error() })
			s.sleep(ctx, s.peering.watchAgain)
			profile = latest(profile, w.profiles)
		}
	}()
}

// farOff reports whether a peer may be more than one hop away, where BFD has another port
// and another least TTL (RFC 5883): because its settings say so, or as an internal one may
// be anywhere, and is on no subnet of ours.
func farOff(p lb.BGPPeer, internal, onLink bool) bool {
	return p.EBGPMultiHop || p.TTLSecurity > 1 || internal && !onLink
}

// latest returns what a channel holds, or what was before.
func latest(p lb.BFDProfile, profiles <-chan lb.BFDProfile) lb.BFDProfile {
	select {
	case p = <-profiles:
	default:
	}
	return p
}

func (s *session) unwatch() {
	if s.watch != nil {
		s.watch.cancel()
		<-s.watch.gone
		s.watch = nil
	}
	s.change(func(v *bgp.SessionView) { v.BFD, v.BFDFault = "", "" })
}

// pathChanged follows BFD. A path that is lost takes the session with it at once
// (RFC 5882 section 4.2), graceful restart or not; one whose other end goes out
// of service does not.
func (s *session) pathChanged(c udp.Change) {
	s.change(func(v *bgp.SessionView) { v.BFD, v.BFDFault = c.State.String(), c.Why })
	if c.State == bfd.Up {
		s.log.Info("BFD up")
	} else {
		s.log.Info("BFD down", "reason", c.Why)
	}
	if c.Failed {
		s.end(guard.Ending{
			Fault:        &bgp.Fault{Cause: bgp.BFDDown, Text: "BFD down: " + c.Why},
			Notification: new(wire.Cease(wire.CeaseBFDDown, "")),
		})
	}
}
