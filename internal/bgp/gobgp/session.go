package gobgp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/belfrylb/belfry/internal/bgp"
	"github.com/belfrylb/belfry/internal/bgp/guard"
	"github.com/belfrylb/belfry/internal/bgp/wire"
	"github.com/belfrylb/belfry/internal/lb"
)

// docs/design/gobgp.md has the reasons.
const (
	// steady is how long a session must have been up for its loss to be the
	// first of a new series, which is tried again at once.
	steady = 10 * time.Second
	// refreshInterval is the least time between two tables that a router asks
	// for; what it asks for sooner is served later.
	refreshInterval = time.Second
	// watchAgain is the pause after which BFD is tried again that cannot be had, as
	// another program has its port.
	watchAgain = 5 * time.Second
)

// A session is one peer's session through all its connections. Its settings of
// transport never change: another session takes its place.
type session struct {
	peering *Peering
	log     *slog.Logger
	// transport is the peer with what may change in life left out.
	transport lb.BGPPeer
	// wanted is what to say, and what may change in life.
	wanted atomic.Pointer[bgp.Session]
	// woken has an element when wanted, or the neighbor, has changed.
	woken chan struct{}
	// neighbor is the router found on the peer's interface.
	neighbor atomic.Pointer[netip.Addr]
	// endings has an element when the connection is to end.
	endings chan guard.Ending
	// cancel ends the session; leave calls it.
	cancel context.CancelFunc
	gone   chan struct{}

	counters guard.Counters
	// table, early and watch belong to the session's goroutine.
	table *table
	early chan *table
	watch *watch
	// next are the next hops that were chosen last.
	next map[lb.Family]bgp.NextHop

	// leaving is set by leave; it belongs to the Peering. farewell is how the session
	// leaves, set before its context ends.
	leaving  bool
	farewell guard.Ending

	mu   sync.Mutex
	view bgp.SessionView
	link *guard.Link
	// told is the last fault that was logged.
	told string
	// last is the last fault since the session was established.
	last *bgp.Fault
}

// transportOf leaves out of a peer what its session can follow without a reset,
// and spells what is the same in one way, so that writing a default down is no change.
func transportOf(p lb.BGPPeer) lb.BGPPeer {
	p.Families = bgp.Families(p)
	if p.Port == 0 {
		p.Port = bgp.DefaultPort
	}
	if p.LocalASN == p.MyASN {
		p.LocalASN = 0
	}
	if 3*p.KeepaliveTime == p.HoldTime {
		p.KeepaliveTime = 0
	}
	p.Created, p.NodeSelectors, p.PasswordFault = time.Time{}, nil, ""
	p.ConnectTime, p.MaximumPrefixes, p.BFD, p.ShutdownMessage = 0, 0, nil, ""
	return p
}

// fits reports whether the session can go on for a peer as it is now. A password
// that cannot be read any more is no reason to end what works with it.
func (s *session) fits(p lb.BGPPeer) bool {
	t := transportOf(p)
	if p.PasswordFault != "" {
		t.Password = s.transport.Password
	}
	return reflect.DeepEqual(t, s.transport)
}

func newSession(p *Peering, wanted bgp.Session, cancel context.CancelFunc) *session {
	s := &session{
		peering: p, log: p.log.With("peer", wanted.Peer.Name), transport: transportOf(wanted.Peer), cancel: cancel,
		woken: make(chan struct{}, 1), endings: make(chan guard.Ending, 1), gone: make(chan struct{}),
	}
	s.wanted.Store(&wanted)
	s.view = bgp.SessionView{Peer: wanted.Peer.Name, Since: time.Now()}
	return s
}

// set gives the session what to say from now on.
func (s *session) set(wanted bgp.Session) {
	s.wanted.Store(&wanted)
	s.wake()
}

func (s *session) wake() {
	select {
	case s.woken <- struct{}{}:
	default:
	}
}

// leave ends the session, saying this to the router if it is there to hear.
func (s *session) leave(e guard.Ending) {
	if s.leaving {
		return
	}
	s.leaving, s.farewell = true, e
	s.end(e)
	s.cancel()
}

// end ends the connection; the session goes on to make another.
func (s *session) end(e guard.Ending) {
	select {
	case s.endings <- e:
	default: // it is ending already
	}
}

// run holds the session until ctx ends.
func (s *session) run(ctx context.Context) {
	defer close(s.gone)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer s.dropTable()
	if s.transport.Interface != "" {
		wg.Go(func() { s.watchNeighbor(ctx) })
	}
	for attempt := 0; ctx.Err() == nil; {
		address, ready := s.ready(ctx)
		if !ready {
			return
		}
		up := s.contained(ctx, guard.TransportOf(s.transport, address))
		if up >= steady {
			attempt = 0
		}
		pause := bgp.Backoff(attempt, s.wanted.Load().Peer.ConnectTime, rand.Float64())
		attempt++
		s.change(func(v *bgp.SessionView) { v.Retry = time.Now().Add(pause) })
		s.sleep(ctx, pause)
	}
}

// sleep waits, but no longer than until ctx ends.
func (s *session) sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// ready waits until there is a router to dial, and returns its address.
func (s *session) ready(ctx context.Context) (netip.Addr, bool) {
	for {
		p := s.wanted.Load().Peer
		var fault *bgp.Fault
		address := p.Address
		if p.Interface != "" {
			address = netip.Addr{}
			if a := s.neighbor.Load(); a != nil {
				address = *a
			}
		}
		switch {
		case p.Shutdown:
			fault = &bgp.Fault{Cause: bgp.AdminShutdown, Text: "administratively shut down"}
		case p.PasswordFault != "":
			fault = &bgp.Fault{Cause: bgp.PasswordMissing, Text: p.PasswordFault}
		case !address.IsValid():
			fault = &bgp.Fault{Cause: bgp.NoNeighbor, Text: "no router has shown itself on " + p.Interface}
		default:
			return address, ctx.Err() == nil
		}
		s.down(fault)
		select {
		case <-ctx.Done():
			return netip.Addr{}, false
		case <-s.woken:
		}
	}
}

// watchNeighbor keeps s.neighbor.
func (s *session) watchNeighbor(ctx context.Context) {
	for ctx.Err() == nil {
		err := guard.WatchNeighbor(ctx, s.transport.Interface, func(a netip.Addr) {
			s.neighbor.Store(&a)
			s.wake()
		})
		if ctx.Err() == nil {
			s.log.Debug("neighbor discovery stopped", "interface", s.transport.Interface, "err", err)
			s.sleep(ctx, time.Second)
		}
	}
}

// contained is attempt, with a panic turned into the end of this connection and of
// its table. What gobgp does on goroutines of its own is out of reach.
func (s *session) contained(ctx context.Context, t guard.Transport) (up time.Duration) {
	defer func() {
		p := recover()
		if p == nil {
			return
		}
		s.log.Error("BGP session ended by a panic", "err", fmt.Sprintf("panic: %v\n%s", p, debug.Stack()))
		s.mu.Lock()
		s.link = nil
		s.mu.Unlock()
		s.end(guard.Ending{Fault: &bgp.Fault{Cause: bgp.InternalFault, Text: "panic"}, Notification: new(wire.Cease(wire.CeaseReset, ""))})
		s.unwatch()
		s.dropTable()
		s.down(&bgp.Fault{Cause: bgp.InternalFault, Text: fmt.Sprintf("panic: %v", p)})
	}()
	return s.attempt(ctx, t)
}

// attempt makes one connection, holds it until it falls, and returns how long
// the session was established.
func (s *session) attempt(ctx context.Context, t guard.Transport) time.Duration {
	select {
	case <-s.endings: // meant for a connection that had ended before
	default:
	}
	s.prepare(ctx, t)
	s.enter(bgp.Connect)
	conn, err := guard.Dial(ctx, t)
	if err != nil {
		var f *bgp.Fault
		errors.As(err, &f)
		s.down(f)
		return 0
	}
	s.change(func(v *bgp.SessionView) {
		v.State, v.Since = bgp.OpenSent, time.Now()
		v.Local, v.Remote = localPort(conn), t.Remote
	})
	wanted := s.wanted.Load()
	link := guard.NewLink(conn, wanted.Peer.MaximumPrefixes, &s.counters, s.peering.notify)
	ours := bgp.LocalOpen(s.transport, wanted.RouterID, s.peering.restarting(wanted.Peer.Name))
	n, err := link.Open(ctx, guard.Opening{
		Open:    ours,
		Judge:   func(theirs wire.Open) (bgp.Negotiated, error) { return bgp.Negotiate(s.transport, ours, theirs) },
		Silence: func(state bgp.State, t bgp.Trace) *bgp.Fault { return bgp.Silence(s.transport, state, t) },
		Doubt:   s.doubt,
	})
	if err == nil {
		s.enter(bgp.OpenConfirm)
		err = link.Confirm(ctx)
	}
	if err != nil {
		var e *guard.Ending
		errors.As(err, &e)
		s.down(e.Fault)
		return 0
	}
	since := time.Now()
	s.hold(ctx, link, n, localPort(conn).Addr())
	return time.Since(since)
}

// hold keeps an established session supplied until it falls.
func (s *session) hold(ctx context.Context, link *guard.Link, n bgp.Negotiated, local netip.Addr) {
	s.resolve(n, local) // shows what there is to send before it shows the session
	s.up(link, n)
	done := make(chan guard.Ending, 1)
	go func() { done <- link.Run(s.endings) }()

	s.followBFD(n)
	err := s.supply(ctx, link, n, local)
	if err == nil {
		err = s.tend(ctx, link, n, local, done)
	}
	switch {
	case ctx.Err() != nil:
		s.end(s.farewell) // the attempt may have just begun, and have thrown it away
	case err != nil:
		s.end(guard.Ending{Fault: &bgp.Fault{Cause: bgp.InternalFault, Text: err.Error()}, Notification: new(wire.Cease(wire.CeaseReset, ""))})
	}
	e := <-done
	s.unwatch()
	if s.table != nil {
		s.table.inner.Attach(nil)
	}
	s.fell(e)
}

// supply makes the table that the session needs, and lets it out.
func (s *session) supply(ctx context.Context, link *guard.Link, n bgp.Negotiated, local netip.Addr) error {
	sh := shapeOf(s.transport, n.PeerAS)
	hops := s.resolve(n, local)
	s.collect()
	if s.table != nil && s.table.shape != sh {
		s.dropTable()
	}
	if s.table == nil {
		t, err := newTable(ctx, s.peering.pool, sh, hops)
		if err != nil {
			return err
		}
		s.table = t
	}
	if err := s.table.set(hops); err != nil {
		return err
	}
	s.table.inner.Attach(link)
	for _, f := range n.Families {
		if err := s.table.refresh(bgp.WireFamily(f)); err != nil {
			return err
		}
	}
	return nil
}

// tend follows what is wanted until the session falls or ctx ends. It puts the
// ending back that it takes from done.
func (s *session) tend(ctx context.Context, link *guard.Link, n bgp.Negotiated, local netip.Addr, done chan guard.Ending) error {
	asked := map[wire.Family]bool{}
	var served time.Time
	timer := time.NewTimer(time.Hour)
	timer.Stop()
	defer timer.Stop()
	for {
		select {
		case e := <-done:
			done <- e
			return nil
		case <-ctx.Done(): // leave has said how to end
			return nil
		case <-s.woken:
			s.followBFD(n)
			if err := s.table.set(s.resolve(n, local)); err != nil {
				return err
			}
			s.peering.notify()
		case f := <-link.Refreshes():
			asked[f] = true
			timer.Reset(time.Until(served.Add(refreshInterval)))
		case served = <-timer.C:
			for f := range asked {
				if err := s.table.refresh(f); err != nil {
					return err
				}
			}
			clear(asked)
		case <-s.table.lost:
			return fmt.Errorf("gobgp's session ended: %w", s.table.err)
		}
	}
}

// resolve gives what is wanted its next hops, as they are to be chosen now, and shows
// what has none.
func (s *session) resolve(n bgp.Negotiated, local netip.Addr) []hop {
	wanted := s.wanted.Load()
	next := bgp.NextHops(wanted.Interfaces, local, n, s.next)
	hops, unsendable := resolve(wanted.Routes, next)
	s.mu.Lock()
	lacked := s.view.Unsendable
	s.view.Routes, s.view.Unsendable, s.view.NextHops = len(hops), unsendable, next
	s.mu.Unlock()
	for _, f := range []lb.Family{lb.IPv4, lb.IPv6} {
		was, is := s.next[f], next[f]
		if n := unsendable[f]; n > 0 && (is.Lack != was.Lack || lacked[f] == 0) {
			s.log.Warn("routes not sent to this router", "family", f.String(), "routes", n, "reason", is.Sentence(f))
		}
		if was.Address.IsValid() && is.Address.IsValid() && was.Address != is.Address {
			s.log.Info("next hop changed", "family", f.String(), "from", was.Address, "to", is.Address)
		}
	}
	s.next = next
	return hops
}

// prepare begins to make the table while the router is being dialed, when it is
// clear what it will look like: gobgp takes a second or two to come up.
func (s *session) prepare(ctx context.Context, t guard.Transport) {
	if s.table != nil || s.early != nil || s.transport.Kind == lb.PeerExternal {
		return
	}
	as := s.transport.PeerASN
	if s.transport.Kind == lb.PeerInternal {
		as = s.transport.LocalAS()
	}
	sh := shapeOf(s.transport, as)
	wanted := s.wanted.Load()
	agreed := bgp.Negotiated{Families: s.transport.Families, ExtendedNextHop: t.Remote.Addr().Is6()}
	hops, _ := resolve(wanted.Routes, bgp.NextHops(wanted.Interfaces, t.Predict(), agreed, s.next))
	s.early = make(chan *table, 1)
	go func() {
		t, err := newTable(ctx, s.peering.pool, sh, hops)
		if err != nil {
			s.log.Debug("cannot prepare the table before the session", "err", err)
		}
		s.early <- t
	}()
}

// collect takes the table that prepare began, if it did, and drops one that is
// lost.
func (s *session) collect() {
	if s.early != nil {
		s.table = <-s.early
		s.early = nil
	}
	if s.table != nil {
		select {
		case <-s.table.lost:
			s.dropTable()
		default:
		}
	}
}

func (s *session) dropTable() {
	if s.early != nil {
		s.table = <-s.early
		s.early = nil
	}
	if s.table != nil {
		s.table.close()
		s.table = nil
	}
}

// change changes the view and tells the world.
func (s *session) change(f func(*bgp.SessionView)) {
	s.mu.Lock()
	f(&s.view)
	s.mu.Unlock()
	s.peering.notify()
}

func (s *session) enter(state bgp.State) {
	s.change(func(v *bgp.SessionView) {
		v.State, v.Since, v.Retry = state, time.Now(), time.Time{}
	})
}

// tell returns what there is to tell of a fault, and logs it when it is news.
func (s *session) tell(f *bgp.Fault) *bgp.Fault {
	s.mu.Lock()
	f = f.Succeed(s.last)
	s.last = f
	news := s.told != f.Text && f.Cause != bgp.Leave
	s.told = f.Text
	s.mu.Unlock()
	if news {
		s.log.Info("BGP session down", "reason", f.Cause.String(), "err", f.Text)
	}
	return f
}

// doubt shows why there may be no session soon.
func (s *session) doubt(f *bgp.Fault) {
	f = s.tell(f)
	s.change(func(v *bgp.SessionView) { v.Fault = f })
}

// down shows why there is no session.
func (s *session) down(f *bgp.Fault) {
	f = s.tell(f)
	s.change(func(v *bgp.SessionView) {
		if v.State != bgp.Idle {
			v.Since = time.Now()
		}
		v.State, v.Fault, v.Retry, v.Negotiated = bgp.Idle, f, time.Time{}, nil
		v.Local, v.Remote = netip.AddrPort{}, netip.AddrPort{}
	})
}

func (s *session) up(link *guard.Link, n bgp.Negotiated) {
	s.peering.established(s.transport.Name)
	s.mu.Lock()
	s.link, s.told, s.last = link, "", nil
	remote := s.view.Remote
	s.mu.Unlock()
	s.log.Info("BGP session established", "address", remote, "as", n.PeerAS, "families", fmt.Sprint(n.Families), "hold", n.HoldTime)
	s.change(func(v *bgp.SessionView) {
		v.State, v.Since, v.Negotiated = bgp.Established, time.Now(), &n
		v.Counters.Established++
	})
}

func (s *session) fell(e guard.Ending) {
	s.mu.Lock()
	s.link = nil
	s.view.Routes, s.view.Unsendable, s.view.NextHops = 0, nil, nil
	if !e.Fault.Cause.Ours() {
		s.view.Counters.Flaps++
	}
	s.mu.Unlock()
	s.down(e.Fault)
}

// shown returns the view as it is now.
func (s *session) shown() bgp.SessionView {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := s.view
	if s.link != nil {
		v.Sent = s.link.Sent()
		v.Received, v.TooMany = s.link.Received()
		for _, f := range []lb.Family{lb.IPv4, lb.IPv6} {
			v.Lack(f, s.link.Unsaid(f))
		}
	}
	c := &s.counters
	v.Counters.MessagesIn, v.Counters.UpdatesIn, v.Counters.MalformedIn = c.MessagesIn.Load(), c.UpdatesIn.Load(), c.MalformedIn.Load()
	v.Counters.MessagesOut, v.Counters.UpdatesOut = c.MessagesOut.Load(), c.UpdatesOut.Load()
	return v
}
