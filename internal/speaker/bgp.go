package speaker

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/belfrylb/belfry/internal/bgp"
	"github.com/belfrylb/belfry/internal/lb"
	"github.com/belfrylb/belfry/internal/quarantine"
)

// A Peering holds BGP sessions. It must outlive the Speaker, which takes leave of
// the routers before it returns.
type Peering interface {
	// Set installs the complete set of sessions with complete routes. It does not
	// wait.
	Set([]bgp.Session)
	// Sessions returns the sessions as they are, by peer.
	Sessions() []bgp.SessionView
	// Changed has a value after Sessions changed.
	Changed() <-chan struct{}
}

// docs/design/hand-over.md has the reasons.
const (
	// DefaultGrace is how long routers have, unless told otherwise, to find
	// another way when they hear that this node is about to go.
	DefaultGrace = 5 * time.Second
	// parting bounds how long routers may take to hear that the routes are gone.
	parting = 2 * time.Second
	// catchUp is how long kube-proxy may take to notice that endpoints have come or
	// gone: by default it looks once a second.
	catchUp = 2 * time.Second
)

// An advertiser is the part of a Speaker that tells routers what to send here. It
// decides by itself, from the newest snapshot, on a goroutine of its own: BGP is
// not waited for by layer 2, nor does it take layer 2 with it.
//
// There is nothing to elect: every node that may advertise an address does.
type advertiser struct {
	node    string
	options bgp.Options
	grace   time.Duration
	peering Peering // nil: there is no BGP
	log     *slog.Logger
	metrics *advertiserMetrics

	// news has a value after tell; moved after other sessions are established,
	// for the Speaker, and shown after any of them changed, for whoever shows
	// them.
	news, moved, shown chan struct{}
	established        atomic.Pointer[[]lb.SessionID]
	intent             atomic.Pointer[bgp.Intent]
	// aside are the Services in the ward.
	aside  atomic.Pointer[[]lb.ServiceKey]
	decide func(lb.Snapshot, string, bgp.Options) bgp.Intent

	mu         sync.Mutex
	snapshot   *lb.Snapshot
	interfaces []lb.Interface

	// What follows belongs to run. Well are the Services of the last decision.
	well         []lb.Service
	ward         quarantine.Ward
	begun, drain bool
	drainedAt    time.Time
	self         lb.Node // as it was when it was last described
	// ready says of Services whose traffic stays local whether they have a ready
	// endpoint here, and since when.
	ready map[bgp.ServiceFamily]readiness
}

func newAdvertiser(cfg Config, log *slog.Logger, reg prometheus.Registerer) *advertiser {
	r := &advertiser{
		node: cfg.Node, options: bgp.Options{Options: cfg.Announce},
		grace: cfg.Grace, peering: cfg.BGP, log: log,
		ready: map[bgp.ServiceFamily]readiness{}, decide: bgp.Decide,
		news: make(chan struct{}, 1), moved: make(chan struct{}, 1), shown: make(chan struct{}, 1),
	}
	r.established.Store(&[]lb.SessionID{})
	r.intent.Store(&bgp.Intent{})
	r.aside.Store(&[]lb.ServiceKey{})
	r.metrics = newAdvertiserMetrics(r, reg)
	return r
}

// Sessions returns the BGP sessions of this node as they are, by peer. It may be
// called at any time.
func (s *Speaker) Sessions() []bgp.SessionView { return s.advertiser.sessions() }

// SessionsChanged has a value after Sessions changed. It is for one receiver.
func (s *Speaker) SessionsChanged() <-chan struct{} { return s.advertiser.shown }

// Routing returns what BGP is to do on this node: the newest decision. It is
// shared and must not be changed.
func (s *Speaker) Routing() *bgp.Intent { return s.advertiser.intent.Load() }

func (r *advertiser) sessions() []bgp.SessionView {
	if r.peering == nil {
		return nil
	}
	return r.peering.Sessions()
}

// tell hands over the newest snapshot. It does not wait.
func (r *advertiser) tell(s lb.Snapshot) {
	r.mu.Lock()
	r.snapshot = &s
	r.mu.Unlock()
	signal(r.news)
}

// place hands over the node's interfaces. It does not wait. Only what next hops depend
// on is news: Pods come and go with an interface each.
func (r *advertiser) place(interfaces []lb.Interface) {
	r.mu.Lock()
	before := r.interfaces
	r.interfaces = interfaces
	r.mu.Unlock()
	if !slices.EqualFunc(reachable(before), reachable(interfaces), func(a, b lb.Interface) bool {
		return a.Name == b.Name && slices.Equal(a.Addresses, b.Addresses) && maps.Equal(a.Flags, b.Flags)
	}) {
		signal(r.news)
	}
}

// reachable returns the interfaces with an address that a router could reach.
func reachable(interfaces []lb.Interface) (out []lb.Interface) {
	for _, i := range interfaces {
		if slices.ContainsFunc(i.Addresses, func(p netip.Prefix) bool { return p.Addr().IsGlobalUnicast() }) {
			out = append(out, i)
		}
	}
	return out
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// run has routers told until ctx is done. Then it takes leave of them and
// returns: those with graceful restart are told nothing.
func (r *advertiser) run(ctx context.Context) {
	if r.peering == nil {
		return
	}
	timer := time.NewTimer(0)
	timer.Stop()
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			r.leave(timer)
			return
		case <-r.news:
		case <-timer.C:
		case <-r.peering.Changed():
			r.follow()
			continue
		}
		if until := r.pass(time.Now()); !until.IsZero() {
			timer.Reset(time.Until(until))
		}
	}
}

// leave says that this node is about to go, gives routers time to find another
// way, withdraws, and waits until they have heard. Whoever runs the Peering then
// ends the sessions.
func (r *advertiser) leave(timer *time.Timer) {
	r.follow()
	if r.told() == 0 {
		return
	}
	r.log.Info("speaker stopping: telling routers", "sessions", r.told(), "grace", r.grace)
	for _, step := range []struct {
		stop bgp.Phase
		for_ time.Duration
	}{{bgp.Leaving, r.grace}, {bgp.Left, parting}} {
		r.options.Stop = step.stop
		r.pass(time.Now())
		timer.Reset(step.for_)
		for waiting := true; waiting && r.told() > 0; {
			select {
			case <-timer.C:
				waiting = false
			case <-r.news:
				r.pass(time.Now())
			case <-r.peering.Changed():
				r.follow()
			}
		}
	}
}

// told counts the sessions whose routers have routes from us that they are to
// lose when the speaker goes.
func (r *advertiser) told() (n int) {
	restarts := map[string]bool{}
	for _, s := range r.intent.Load().Sessions {
		restarts[s.Peer.Name] = s.Peer.GracefulRestart != nil
	}
	for _, v := range r.peering.Sessions() {
		if v.State == bgp.Established && v.Sent > 0 && !restarts[v.Peer] {
			n++
		}
	}
	return n
}

// pass decides and carries out. It returns when to decide anew though nothing
// has happened; zero for never. A panic leaves everything as it is.
func (r *advertiser) pass(now time.Time) (until time.Time) {
	r.mu.Lock()
	snapshot := r.snapshot
	r.options.Interfaces = r.interfaces
	r.mu.Unlock()
	if snapshot == nil {
		return time.Time{}
	}
	defer func() {
		if p := recover(); p != nil {
			r.metrics.panics.Inc()
			r.log.Error("BGP decision failed; routes stay as they are", "err", fmt.Sprintf("panic: %v\n%s", p, debug.Stack()))
		}
	}()
	world := r.described(*snapshot)
	if len(world.BGPPeers) == 0 {
		world.Services = nil // there is no router to tell of them
	}
	r.options.Phase, until = r.phase(&world, now)
	var settled time.Time
	if r.options.Recent, settled = r.recent(&world, now); !settled.IsZero() && (until.IsZero() || settled.Before(until)) {
		until = settled
	}
	intent := r.resolve(world)
	r.complain(r.intent.Load(), &intent)
	r.intent.Store(&intent)
	r.peering.Set(intent.Sessions)
	r.metrics.passes.Observe(time.Since(now).Seconds())
	return until
}

// resolve decides, without the Services over which that panics. One that no Service
// explains is passed on.
func (r *advertiser) resolve(world lb.Snapshot) (intent bgp.Intent) {
	all := world.Services
	decide := func(some []lb.Service) bgp.Intent {
		world.Services = some
		return r.decide(world, r.node, r.options)
	}
	defer func() {
		p := recover()
		if p == nil {
			return
		}
		admitted := r.ward.Admit(all, r.well, func(some []lb.Service) { decide(some) })
		if len(admitted) == 0 {
			panic(p)
		}
		r.metrics.panics.Inc()
		r.log.Error("a decision over BGP has panicked", "err", fmt.Sprintf("panic: %v\n%s", p, debug.Stack()))
		for _, key := range admitted {
			r.log.Error("service set aside until it changes", "service", key.String())
		}
		r.well = r.ward.Treat(all)
		r.note()
		intent = decide(r.well)
	}()
	treated := r.ward.Treat(all)
	intent = decide(treated)
	r.well = treated
	r.note()
	return intent
}

// note tells which Services are set aside, if these are others.
func (r *advertiser) note() {
	if names := r.ward.Names(); !slices.Equal(names, *r.aside.Load()) {
		r.aside.Store(&names)
		signal(r.shown)
	}
}

// described returns the snapshot with this node as it was when it was last
// described: whose object is deleted has lost its labels, and is to be drained by
// all of its sessions.
func (r *advertiser) described(s lb.Snapshot) lb.Snapshot {
	i, found := slices.BinarySearchFunc(s.Nodes, r.node, func(n lb.Node, name string) int { return cmp.Compare(n.Name, name) })
	switch {
	case !found:
	case len(s.Nodes[i].Addresses) > 0:
		r.self = s.Nodes[i]
	case r.self.Name != "":
		s.Nodes = slices.Clone(s.Nodes)
		s.Nodes[i].Labels, s.Nodes[i].Addresses = r.self.Labels, r.self.Addresses
	}
	return s
}

// A readiness says whether a Service has ready endpoints of a family on this node,
// and since when; zero if it was so when the Service was first seen.
type readiness struct {
	is    bool
	since time.Time
}

// recent returns the Services, by family, whose ready endpoints here have just come
// or gone, and when the first of them will not have any more.
func (r *advertiser) recent(s *lb.Snapshot, now time.Time) (recent map[bgp.ServiceFamily]bool, until time.Time) {
	next := make(map[bgp.ServiceFamily]readiness, len(r.ready))
	for i := range s.Services {
		svc := &s.Services[i]
		if svc.TrafficPolicy != lb.TrafficLocal {
			continue
		}
		for _, family := range [...]lb.Family{lb.IPv4, lb.IPv6} {
			key := bgp.ServiceFamily{Service: svc.Key, Family: family}
			is := readiness{is: svc.Endpoints.Of(family)[r.node].Ready > 0}
			if was, known := r.ready[key]; known {
				if is.since = was.since; was.is != is.is {
					is.since = now
				}
			}
			next[key] = is
			if end := is.since.Add(catchUp); now.Before(end) {
				if recent == nil {
					recent = map[bgp.ServiceFamily]bool{}
				}
				recent[key] = true
				if until.IsZero() || end.Before(until) {
					until = end
				}
			}
		}
	}
	r.ready = next
	return recent, until
}

// phase returns how far this node's draining is. A node that is drained when the
// speaker starts has left already.
func (r *advertiser) phase(s *lb.Snapshot, now time.Time) (bgp.Phase, time.Time) {
	i, found := slices.BinarySearchFunc(s.Nodes, r.node, func(n lb.Node, name string) int { return cmp.Compare(n.Name, name) })
	drain := found && s.Nodes[i].Drain
	if drain && !r.drain && r.begun {
		r.drainedAt = now
		r.log.Info("node draining: telling routers", "grace", r.grace)
	}
	r.begun, r.drain = true, drain
	return bgp.PhaseAt(drain, r.drainedAt, now, r.grace)
}

// complain logs what of the configuration does not work out on this node.
func (r *advertiser) complain(was, is *bgp.Intent) {
	for _, c := range is.Conflicts {
		if !slices.Contains(was.Conflicts, c) {
			r.log.Warn("BGPAdvertisements contradict each other", "reason", c.String())
		}
	}
	for _, rival := range is.Rivals {
		if !slices.Contains(was.Rivals, rival) {
			r.log.Warn("no session: an older BGPPeer is for the same router", "peer", rival.Peer, "older", rival.Older)
		}
	}
}

// follow takes note of what became of the sessions.
func (r *advertiser) follow() {
	var established []lb.SessionID
	for _, v := range r.peering.Sessions() {
		established = append(established, bgp.SessionIDs(v)...)
	}
	slices.Sort(established)
	if !slices.Equal(established, *r.established.Load()) {
		r.established.Store(&established)
		signal(r.moved)
	}
	signal(r.shown)
}
