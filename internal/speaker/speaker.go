package speaker

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/belfrylb/belfry/internal/core"
	"github.com/belfrylb/belfry/internal/digest"
	"github.com/belfrylb/belfry/internal/election"
	"github.com/belfrylb/belfry/internal/eligibility"
	"github.com/belfrylb/belfry/internal/layer2"
	"github.com/belfrylb/belfry/internal/lb"
	"github.com/belfrylb/belfry/internal/proof"
	"github.com/belfrylb/belfry/internal/quarantine"
	"github.com/belfrylb/belfry/internal/report"
	"github.com/belfrylb/belfry/internal/watchdog"
)

// A Cluster is what the API server holds.
type Cluster interface {
	// Synced is closed once everything has been read.
	Synced() <-chan struct{}
	// Changed has a value after something has changed.
	Changed() <-chan struct{}
	// Snapshot returns the whole, which is not changed afterwards, and whether
	// anything in it differs from the last.
	Snapshot() (s lb.Snapshot, changed bool)
}

// A Link answers and announces on the wire.
type Link interface {
	// Set installs the complete set of claims. When it returns, they are answered:
	// other speakers are told of them afterwards, and may then stop.
	Set([]layer2.Claim)
	// Announce announces one of them afresh.
	Announce(netip.Addr)
	// Interfaces are the node's; Changed has a value after they changed.
	Interfaces() []lb.Interface
	Changed() <-chan struct{}
	// Heard delivers other stations' use of claimed addresses.
	Heard() <-chan layer2.Heard
	// Defend claims one of them against a foreign station, with a single packet.
	Defend(netip.Addr)
	// Detect asks on an interface's segment which addresses others than ours use.
	Detect(ctx context.Context, ifindex int, addresses []netip.Addr, ours func(lb.MAC) bool) ([]layer2.Heard, error)
	// Probe asks a station on an interface's segment for its own address.
	Probe(ctx context.Context, ifindex int, target netip.Addr, mac lb.MAC) (bool, error)
	// Ask asks on a segment as a client would, and returns all answers.
	Ask(context.Context, proof.Question) ([]proof.Answer, error)
}

// A Membership is this node's part in gossip. None of its methods waits.
type Membership interface {
	Publish(election.Local)
	SetPeers([]netip.Addr)
	Move(netip.Addr)
	Members() []election.Member
	// Blocked are the nodes to which gossip is blocked though their speakers are there.
	Blocked() []election.Blocked
	Changed() <-chan struct{}
}

// A Config is what a Speaker needs to know.
type Config struct {
	// Node is this node's name.
	Node string
	// Gossip is the address it gossips on; peers are called at their address of
	// the same family. It follows that of the Node unless it is Fixed.
	Gossip   netip.Addr
	Fixed    bool
	Announce eligibility.Options
	// Detection is how its failure is detected, unless its Node says otherwise.
	Detection lb.Detection
	// ProofInterval is how often the segment is asked about an address that was
	// verified; 0: never.
	ProofInterval time.Duration
	// BGP holds the sessions with routers; nil for none. Grace is how long they
	// have to find another way before this node goes.
	BGP   Peering
	Grace time.Duration
	// Watchdog asks the announcement loop; nil: it is not asked.
	Watchdog *watchdog.Watchdog
	// Requests are what people want asked on the node's segments: see
	// [proof.ParseRequest]. Nil: nothing.
	Requests <-chan string
}

// docs/design/pacing.md has the reasons.
const (
	// leisurely is the least time that a look at what the API server holds stands
	// for, idle how many times longer than it and its decision took, and latest the
	// most, so that a busy cluster never busies us.
	leisurely = 10 * time.Millisecond
	idle      = 60
	latest    = time.Second
	// prompt is how many looks may be taken ahead of that: what comes after a few
	// others, as an endpoint that goes does after the conditions that were written
	// when it came, waits for none of it.
	prompt = 5
	// conflictsTold is how many conflicts are remembered to be told of.
	conflictsTold = 64
)

// A Speaker decides what its node announces, by its Core, and has it done.
type Speaker struct {
	cfg        Config
	cluster    Cluster
	link       Link
	members    Membership
	advertiser *advertiser
	board      *board
	log        *slog.Logger
	metrics    *metrics

	asking     sync.WaitGroup // questions under way
	detected   chan detected
	identified chan identified
	asked      chan asked
	proved     chan proved

	// What follows belongs to the goroutine of Run.
	core *core.Core
	// snapshot is what the API server held last, well the Services of the last
	// decision, and ward those that are kept from it because it panics over them.
	snapshot lb.Snapshot
	well     []lb.Service
	ward     quarantine.Ward
	dirty    bool      // the cluster has changed since it was read
	pace     pace      // when it may be read again
	next     time.Time // when to settle again; zero for never
	left     bool
	// moves are those of addresses that the log does not tell yet.
	moves digest.Digest[topic, move]
	// met are the nodes that were heard, and conflicts what was told of last.
	met       map[string]bool
	conflicts []report.Conflict
}

// New returns a Speaker that does nothing until Run.
func New(cfg Config, cluster Cluster, link Link, members Membership, log *slog.Logger, reg prometheus.Registerer) *Speaker {
	m := newMetrics(reg)
	if cfg.Watchdog == nil {
		cfg.Watchdog = watchdog.New("the announcement loop", watchdog.Patience)
	}
	return &Speaker{
		cfg: cfg, cluster: cluster, link: link, members: members, log: log, metrics: m,
		core:       core.New(core.Config{Node: cfg.Node, Gossip: cfg.Gossip, Fixed: cfg.Fixed, Announce: cfg.Announce, Detection: cfg.Detection, ProofInterval: cfg.ProofInterval}),
		dirty:      true,
		board:      newBoard(),
		met:        map[string]bool{},
		advertiser: newAdvertiser(cfg, log, reg),
		detected:   make(chan detected), identified: make(chan identified),
		asked: make(chan asked), proved: make(chan proved),
	}
}

// Run announces until ctx is done, then hands over what it owns and returns. The
// link and the membership must outlive it.
func (s *Speaker) Run(ctx context.Context) {
	if !s.await(ctx) {
		return
	}
	defer s.retire()
	routed := make(chan struct{})
	go func() { defer close(routed); s.advertiser.run(ctx) }()
	defer func() { <-routed }()

	s.loop(ctx)
}

// await waits until the cluster is known: before that, nothing could be decided
// that would not be regretted.
func (s *Speaker) await(ctx context.Context) bool {
	select {
	case <-s.cluster.Synced():
		return true
	case <-ctx.Done():
		return false
	}
}

// loop tells the Core what happens and does what it says, until it has left, which
// begins when ctx is done.
func (s *Speaker) loop(ctx context.Context) {
	defer s.cfg.Watchdog.Begin()()
	asking, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer s.asking.Wait()
	defer stop()
	s.look()
	s.core.SetSessions(*s.advertiser.established.Load())
	s.core.SetMembers(time.Now(), s.members.Members())
	timer := time.NewTimer(0)
	defer timer.Stop()
	leave := ctx.Done()
	for {
		s.step(asking, time.Now())
		if s.left {
			s.tellMoves(s.moves.Rest())
			s.log.Info("layer 2 stopped")
			return
		}
		timer.Stop()
		if due := s.due(); !due.IsZero() {
			timer.Reset(time.Until(due))
		}
		changed := s.cluster.Changed()
		if s.dirty {
			changed = nil // that is known: be woken when it may be read
		}
		select {
		case <-leave:
			leave = nil
			s.log.Info("speaker stopping: handing over addresses")
			s.core.Leave(time.Now())
		case <-changed:
			s.dirty = true
		case <-s.members.Changed():
			s.core.SetMembers(time.Now(), s.members.Members())
		case <-s.link.Changed():
			s.look()
		case <-s.advertiser.moved:
			s.core.SetSessions(*s.advertiser.established.Load())
		case h := <-s.link.Heard():
			s.core.Hear(time.Now(), h)
		case d := <-s.detected:
			s.core.Detected(time.Now(), d.Inquiry, d.found, d.failed)
		case i := <-s.identified:
			s.core.Identified(time.Now(), i.Station, i.is)
		case a := <-s.asked:
			s.core.Asked(time.Now(), a.Ask, a.answered)
		case r := <-s.cfg.Requests:
			s.core.Request(r)
		case p := <-s.proved:
			s.core.Proved(time.Now(), p.Question, p.answers, p.failed)
		case <-s.cfg.Watchdog.Asked():
		case <-timer.C:
		}
	}
}

// look takes in what the kernel says of the node's interfaces.
func (s *Speaker) look() {
	interfaces := s.link.Interfaces()
	s.core.SetInterfaces(interfaces)
	s.advertiser.place(interfaces)
}

// due returns when there is something to do; zero for never.
func (s *Speaker) due() time.Time {
	due := earlier(s.next, s.moves.Next())
	if s.dirty {
		due = earlier(due, s.pace.next())
	}
	return due
}

// A pace spreads looks over time. Each stands for a while, and the next may be
// taken when no more than prompt such whiles are ahead, and latest after the last
// one at the latest.
type pace struct {
	last  time.Time     // the end of the last look
	while time.Duration // what it stood for
	paid  time.Time     // the end of what all looks so far stand for
}

// next returns when the next look may be taken.
func (p *pace) next() time.Time {
	at, bound := p.paid.Add(-(prompt-1)*p.while), p.last.Add(latest)
	if bound.Before(at) {
		return bound
	}
	return at
}

// spend takes note of a look.
func (p *pace) spend(start, end time.Time) {
	p.last, p.while = end, min(max(leisurely, idle*end.Sub(start)), latest)
	if p.paid.Before(end) {
		p.paid = end
	}
	p.paid = p.paid.Add(p.while)
}

// step does what is due.
func (s *Speaker) step(ctx context.Context, start time.Time) {
	reads := s.dirty && !start.Before(s.pace.next())
	e, err := s.settle(start, reads)
	for err != nil {
		s.quarantine(start, err)
		e, err = s.settle(start, false)
	}
	s.perform(ctx, e)
	s.moved(start, e)
	s.next, s.left = e.Next, e.Left
	end := time.Now()
	if e.View != nil {
		s.metrics.passes.Observe(end.Sub(start).Seconds())
	}
	if reads {
		s.pace.spend(start, end)
	}
}

// settle has the Core decide on what is due.
func (s *Speaker) settle(now time.Time, reads bool) (e core.Effects, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	if reads {
		s.read(now)
	}
	e = s.core.Settle(now)
	if e.View != nil {
		s.well = s.ward.Treat(s.snapshot.Services)
	}
	return e, nil
}

// read takes in what the API server holds.
func (s *Speaker) read(now time.Time) {
	s.dirty = false
	snapshot, changed := s.cluster.Snapshot()
	if changed {
		s.snapshot = snapshot
		s.configure(now)
	}
}

// configure says what the API server holds, but for what is set aside.
func (s *Speaker) configure(now time.Time) {
	world := s.snapshot
	world.Services = s.ward.Treat(world.Services)
	s.core.Configure(now, world)
	world.Nodes = core.WithNode(world.Nodes, s.cfg.Node)
	s.advertiser.tell(world)
}

// quarantine is called when a decision has panicked, which is an error of ours that
// some Service brings to light. It is set aside until it changes, so that all others
// are served and it stays announced as it was. What no Service explains ends the
// program: it starts anew.
func (s *Speaker) quarantine(now time.Time, err error) {
	s.log.Error("a decision has panicked", "err", err)
	s.metrics.panics.Inc()
	admitted := s.ward.Admit(s.snapshot.Services, s.well, func(some []lb.Service) {
		world := s.snapshot
		world.Services = some
		s.core.Rehearse(world)
	})
	if len(admitted) == 0 {
		panic(err)
	}
	for _, key := range admitted {
		s.log.Error("service set aside until it changes", "service", key.String())
	}
	s.configure(now)
}

// perform does what the Core says: the wire first, then gossip.
func (s *Speaker) perform(ctx context.Context, e core.Effects) {
	if e.Claims != nil {
		s.link.Set(e.Claims)
	}
	if e.Gossip != nil {
		s.members.Publish(*e.Gossip)
	}
	if e.Peers != nil {
		s.members.SetPeers(e.Peers)
	}
	if e.Move.IsValid() {
		s.members.Move(e.Move)
	}
	for _, a := range e.Announce {
		s.link.Announce(a)
	}
	for _, a := range e.Defend {
		s.link.Defend(a)
	}
	s.ask(ctx, e)
	s.tell(e)
	s.metrics.count(e)
}

// tell has others know what became of it.
func (s *Speaker) tell(e core.Effects) {
	for _, c := range e.Conflicts {
		if c.Withheld {
			continue // the view tells, and a transition does
		}
		s.conflicts = append(slices.Clone(s.conflicts[max(0, len(s.conflicts)-conflictsTold+1):]),
			report.Conflict{Address: c.Address, MAC: c.MAC, Node: c.Node, Heard: c.Kind.String(), At: c.At})
	}
	switch shown := s.board.state.Load(); {
	case e.Left:
	case e.View != nil:
		s.board.show(State{View: *e.View, Unheard: s.unheard(e.View), Blocked: s.members.Blocked(), Conflicts: s.conflicts, Aside: s.ward.Names()})
	case len(e.Conflicts) > 0 && shown != nil:
		again := *shown
		again.Conflicts = s.conflicts
		s.board.show(again)
	}
}
