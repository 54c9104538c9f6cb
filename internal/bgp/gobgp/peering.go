package gobgp

import (
	"cmp"
	"context"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/belfrylb/belfry/internal/bfd/udp"
	"github.com/belfrylb/belfry/internal/bgp"
	"github.com/belfrylb/belfry/internal/bgp/guard"
	"github.com/belfrylb/belfry/internal/bgp/wire"
)

// Peering is all the BGP sessions of a node.
type Peering struct {
	log     *slog.Logger
	pool    *pool
	monitor *udp.Monitor
	wanted  atomic.Pointer[[]bgp.Session]
	woken   chan struct{}
	changed chan struct{}
	// watchAgain is the pause after which BFD is tried again that cannot be had.
	watchAgain time.Duration

	mu       sync.Mutex
	sessions map[string]*session
	// seen are the peers that had a session in this speaker's life.
	seen map[string]bool
}

// New returns a Peering without sessions. It does nothing until Run.
func New(log *slog.Logger) *Peering {
	return &Peering{
		log: log, pool: &pool{log: log}, monitor: udp.New(log), woken: make(chan struct{}, 1), changed: make(chan struct{}, 1),
		watchAgain: watchAgain, sessions: map[string]*session{}, seen: map[string]bool{},
	}
}

// Set replaces what is wanted: complete sessions with complete routes. It does
// not wait. A session that stays keeps its connection, unless its peer's own
// settings of transport changed; one that is not there any more ends with a
// NOTIFICATION.
func (p *Peering) Set(sessions []bgp.Session) {
	p.wanted.Store(&sessions)
	select {
	case p.woken <- struct{}{}:
	default:
	}
}

// Changed has an element when Sessions may have changed since it was last
// received from.
func (p *Peering) Changed() <-chan struct{} { return p.changed }

func (p *Peering) notify() {
	select {
	case p.changed <- struct{}{}:
	default:
	}
}

// Sessions returns the sessions as they are, by peer. One that is ending is
// there until it has ended.
func (p *Peering) Sessions() []bgp.SessionView {
	p.mu.Lock()
	sessions := make([]*session, 0, len(p.sessions))
	for _, s := range p.sessions {
		sessions = append(sessions, s)
	}
	p.mu.Unlock()
	views := make([]bgp.SessionView, len(sessions))
	for i, s := range sessions {
		views[i] = s.shown()
	}
	slices.SortFunc(views, func(a, b bgp.SessionView) int { return cmp.Compare(a.Peer, b.Peer) })
	return views
}

// Run holds the sessions until ctx ends. It then leaves them as a speaker that
// will be back: those with graceful restart without a word, the others with
// Cease. Who wants to leave for good lets a Set without sessions come first.
func (p *Peering) Run(ctx context.Context) error {
	// Sessions outlive ctx by as long as their farewell takes.
	life := context.WithoutCancel(ctx)
	var wg, monitor sync.WaitGroup
	listen, deafen := context.WithCancel(life)
	defer monitor.Wait()
	defer deafen()
	listening := false
	for {
		select {
		case <-ctx.Done():
			p.mu.Lock()
			for _, s := range p.sessions {
				s.leave(stopping(s.transport.GracefulRestart != nil))
			}
			p.mu.Unlock()
			wg.Wait()
			return ctx.Err()
		case <-p.woken:
			wanted := *p.wanted.Load()
			// BFD's ports are for those who asked for BFD.
			if !listening && slices.ContainsFunc(wanted, func(s bgp.Session) bool { return s.Peer.BFD != nil }) {
				listening = true
				monitor.Go(func() { _ = p.monitor.Run(listen) })
			}
			p.apply(life, &wg, wanted)
		}
	}
}

// apply starts, replaces and ends sessions.
func (p *Peering) apply(life context.Context, wg *sync.WaitGroup, wanted []bgp.Session) {
	p.mu.Lock()
	defer p.mu.Unlock()
	keep := map[string]bool{}
	for _, w := range wanted {
		name := w.Peer.Name
		keep[name] = true
		old := p.sessions[name]
		if old != nil && !old.leaving && old.fits(w.Peer) {
			old.set(w)
			continue
		}
		ctx, cancel := context.WithCancel(life)
		s := newSession(p, w, cancel)
		p.sessions[name] = s
		if old != nil {
			old.leave(replaced(old, s))
		}
		wg.Go(func() {
			defer cancel()
			if old != nil {
				<-old.gone // a router takes one connection from an address
			}
			s.run(ctx)
			p.forget(s)
		})
	}
	for name, s := range p.sessions {
		if !keep[name] {
			s.leave(guard.Ending{
				Fault:        &bgp.Fault{Cause: bgp.Reconfigured, Text: "not wanted any more"},
				Notification: new(wire.Cease(wire.CeaseDeconfigured, "")),
			})
		}
	}
	p.notify()
}

// forget removes a session that has ended, unless another took its place.
func (p *Peering) forget(s *session) {
	p.mu.Lock()
	if p.sessions[s.transport.Name] == s {
		delete(p.sessions, s.transport.Name)
	}
	p.mu.Unlock()
	p.notify()
}

// restarting reports whether a peer has not yet had a session in this life.
func (p *Peering) restarting(peer string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !p.seen[peer]
}

func (p *Peering) established(peer string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.seen[peer] = true
}

// stopping is how a speaker leaves that will be back.
func stopping(graceful bool) guard.Ending {
	e := guard.Ending{Fault: &bgp.Fault{Cause: bgp.Leave, Text: "the speaker stops"}}
	if !graceful {
		e.Notification = new(wire.Cease(wire.CeaseShutdown, "the speaker stops"))
	}
	return e
}

// replaced is how a session leaves to another of the same peer.
func replaced(old, next *session) guard.Ending {
	peer := next.wanted.Load().Peer
	switch {
	case peer.Shutdown:
		return guard.Ending{
			Fault:        &bgp.Fault{Cause: bgp.AdminShutdown, Text: "administratively shut down"},
			Notification: new(wire.Cease(wire.CeaseShutdown, peer.ShutdownMessage)),
		}
	case old.transport.GracefulRestart != nil && peer.GracefulRestart != nil && old.transport.Address == peer.Address && old.transport.LocalAS() == peer.LocalAS():
		// The router waits for us with our routes in place.
		return guard.Ending{Fault: &bgp.Fault{Cause: bgp.Reconfigured, Text: "the peer's settings changed"}}
	default:
		return guard.Ending{
			Fault:        &bgp.Fault{Cause: bgp.Reconfigured, Text: "the peer's settings changed"},
			Notification: new(wire.Cease(wire.CeaseConfiguration, "")),
		}
	}
}

func localPort(conn net.Conn) netip.AddrPort {
	ap := conn.LocalAddr().(*net.TCPAddr).AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}
