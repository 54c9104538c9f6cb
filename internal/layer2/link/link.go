package link

import (
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/net/bpf"

	"github.com/belfrylb/belfry/internal/layer2"
	"github.com/belfrylb/belfry/internal/lb"
)

// Options tune a Link.
type Options struct {
	// RefreshInterval is how often an address is announced again without a
	// cause; 0 is never.
	RefreshInterval time.Duration
	// Rate is the most gratuitous packets per interface and second; 0 means
	// DefaultRate.
	Rate int
}

// DefaultRate is the budget of gratuitous packets per interface and second
// (docs/design/announcing.md).
const DefaultRate = 500

// docs/design/answering.md has the reasons, and docs/design/hand-over.md that of hearing.
const (
	// settle is the least time between two listings of the kernel's state, so
	// that a burst of changes costs few of them. The first change of a burst
	// is acted on at once.
	settle = 10 * time.Millisecond
	// Retries after the kernel refused something begin at soon and double up
	// to late. Any change that it reports is a retry, too.
	soon, late = time.Second, time.Minute
	// hearing bounds how long Set waits until the kernel passes on what is asked
	// about new claims. It takes a few milliseconds, and some tens where
	// processors are scarce; then, too, the others may not be told too early.
	hearing = 500 * time.Millisecond
	// threads bounds how many sockets have a thread of their own to wait by: a
	// node's number of threads is limited, its number of interfaces is not.
	threads = 32
	// ears is how many unread Heard are kept. A neighbor announces at most
	// some hundreds of addresses a second.
	ears = 1024
	// discards is how many sockets wait to be closed at most.
	discards = 16
)

// A Link answers and announces the addresses it is told to. Its methods may be
// called from any goroutine, before, during and after Run, which may run once
// at a time.
type Link struct {
	log     *slog.Logger
	options Options
	metrics *metrics
	// sealed is set when this process may not open packet sockets.
	sealed bool

	// What is wanted, written by Set and Watch.
	wanted  atomic.Pointer[wanted]
	watched atomic.Pointer[[]lb.AddressRange]
	// What the kernel has, and what of wanted it was told, written by Run.
	station atomic.Pointer[layer2.Station]
	settled atomic.Pointer[wanted] // nil while Run does not run

	// fence is open while this process may say that addresses are its node's.
	fence fence

	wake     chan struct{} // wanted or watched has changed
	ready    chan struct{} // settled has changed
	changed  chan struct{} // station has changed
	heard    chan layer2.Heard
	announce chan netip.Addr
	defend   chan netip.Addr
	// discarded are sockets that Run closes.
	discarded chan *socket

	// lateness is how late answers have lately been, by interface.
	latenessMu sync.Mutex
	lateness   map[int]*layer2.Lateness

	// hearing bounds how long Set waits; tests have more time.
	hearing time.Duration
	// How to open what Run reads from; tests break it.
	subscribeTo func() (*subscription, error)
	openSocket  func(ifindex, etherType int, w wait, filter []bpf.Instruction) (*socket, error)
}

type wanted struct {
	claims []layer2.Claim
	table  *layer2.Table
}

// New returns a Link that does nothing until Run. A nil registerer keeps its
// metrics unregistered.
func New(log *slog.Logger, reg prometheus.Registerer, o Options) (*Link, error) {
	if o.Rate < 0 || o.RefreshInterval < 0 {
		return nil, fmt.Errorf("layer 2: rate %d and refresh interval %v must not be negative", o.Rate, o.RefreshInterval)
	}
	if o.Rate == 0 {
		o.Rate = DefaultRate
	}
	m, err := newMetrics(reg)
	if err != nil {
		return nil, err
	}
	l := &Link{
		log: log, options: o, metrics: m, sealed: !mayListen(),
		wake:     make(chan struct{}, 1),
		ready:    make(chan struct{}, 1),
		changed:  make(chan struct{}, 1),
		heard:    make(chan layer2.Heard, ears),
		announce: make(chan netip.Addr, 64),
		defend:   make(chan netip.Addr, 64),

		discarded: make(chan *socket, discards),
		lateness:  map[int]*layer2.Lateness{},

		hearing:     hearing,
		subscribeTo: subscribe,
		openSocket:  openSocket,
	}
	l.wanted.Store(&wanted{table: layer2.NewTable(nil)})
	l.watched.Store(new([]lb.AddressRange))
	l.station.Store(layer2.NewStation(nil))
	if l.sealed {
		log.Info("layer 2 disabled: the process lacks the capability NET_RAW")
	}
	return l, nil
}

// Set installs the complete set of claims. From then on nothing else is
// answered. What is new is answered when Set returns, unless the kernel takes
// long or refuses; so a node that is told of it afterward may stop answering. It is
// announced, too. Setting the same again does nothing. Only one goroutine may
// call it at a time.
func (l *Link) Set(claims []layer2.Claim) {
	if slices.EqualFunc(claims, l.wanted.Load().claims, layer2.Claim.Equal) {
		return
	}
	want := &wanted{slices.Clone(claims), layer2.NewTable(claims)}
	l.wanted.Store(want)
	poke(l.wake)
	late := time.NewTimer(l.hearing)
	defer late.Stop()
	for {
		if settled := l.settled.Load(); settled == nil || settled == want {
			return
		}
		select {
		case <-l.ready:
		case <-late.C:
			return
		}
	}
}

// Watch installs the ranges in which other stations' use of an address is
// reported by Heard. What this node claims is watched in any case. We listen
// where we have claims: a family on an interface without any is not heard.
func (l *Link) Watch(ranges []lb.AddressRange) {
	sorted := merge(ranges)
	if slices.Equal(sorted, *l.watched.Load()) {
		return
	}
	l.watched.Store(&sorted)
	poke(l.wake)
}

// Announce announces an address afresh wherever it is claimed, within the
// budget: another station was heard with it and has lost it to us.
func (l *Link) Announce(address netip.Addr) {
	select {
	case l.announce <- address:
	default: // so many are waiting already that the budget is spent for long
	}
}

// Defend claims an address against a foreign station that does: one packet wherever it
// is claimed, within the budget. How often is for the caller to bound.
func (l *Link) Defend(address netip.Addr) {
	select {
	case l.defend <- address:
	default:
	}
}

// Interfaces returns the node's interfaces as last listed, sorted by index;
// nothing before Run has listed them. Do not change them.
func (l *Link) Interfaces() []lb.Interface { return l.station.Load().Interfaces() }

// Changed receives a value after Interfaces has changed.
func (l *Link) Changed() <-chan struct{} { return l.changed }

// Heard receives other stations' use of watched or claimed addresses. What is
// not read in time is dropped and counted.
func (l *Link) Heard() <-chan layer2.Heard { return l.heard }

// discard has a packet socket closed. The kernel takes some 15 ms for that, which
// no question is to wait for.
func (l *Link) discard(s *socket) {
	if l.settled.Load() != nil {
		select {
		case l.discarded <- s:
			return
		default:
		}
	}
	s.close()
}

// closeDiscarded closes what is discarded until done.
func (l *Link) closeDiscarded(done <-chan struct{}) {
	for {
		select {
		case s := <-l.discarded:
			s.close()
			continue
		default:
		}
		select {
		case s := <-l.discarded:
			s.close()
		case <-done:
			return
		}
	}
}

func poke(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
