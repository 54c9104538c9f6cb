package speaker

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/belfrylb/belfry/internal/announce"
	"github.com/belfrylb/belfry/internal/election"
	"github.com/belfrylb/belfry/internal/layer2"
	"github.com/belfrylb/belfry/internal/lb"
)

// A Condition is what the condition Announced of a Service says.
type Condition struct {
	Announced       bool
	Reason, Message string
}

// A Report is what a Service says about its announcing.
type Report struct {
	Condition
	// Places are the nodes where its addresses are recorded to be; empty for
	// none.
	Places map[netip.Addr]string
}

// An Event tells of a transition.
type Event struct {
	Kind    EventKind
	Message string
}

// An EventKind is the reason of an Event, as Kubernetes calls it.
type EventKind string

// Events on Services.
const (
	Announcing        EventKind = "Announcing"
	AnnouncementMoved EventKind = "AnnouncementMoved"
	NotAnnounced      EventKind = "NotAnnounced"
	AddressConflict   EventKind = "AddressConflict"
)

// Events on BGPPeers.
const (
	SessionEstablished EventKind = "SessionEstablished"
	SessionLost        EventKind = "SessionLost"
)

// Warns reports whether the event is one that somebody should look into.
func (k EventKind) Warns() bool { return k == NotAnnounced || k == AddressConflict || k == SessionLost }

// A Reporter writes to the API server.
type Reporter interface {
	// Announced returns what a Service says as far as the cluster is known; false
	// when there is no such Service.
	Announced(lb.ServiceKey) (Report, bool)
	// SetAnnounced makes it say so, all in one write, and reports whether it was
	// written. Addresses that Places lacks stay recorded where they are. An error
	// is worth another attempt.
	SetAnnounced(context.Context, lb.ServiceKey, Report) (written bool, err error)
	// Event records an event, without waiting.
	Event(lb.ServiceKey, Event)
}

const (
	// between is the pause after a write: fifty a second at most, so that a
	// failure of many addresses is no flood.
	between = 20 * time.Millisecond
	// tries is how many writes may fail in a row before the herald backs off,
	// at first for soon, twice as long each time, at most for late.
	tries = 3
	soon  = 250 * time.Millisecond
	late  = 30 * time.Second
	// settled is how long an address must have been without an owner before
	// that is told: while speakers start or a failure is being repaired, it is
	// nothing to wake anybody for.
	settled = 3 * time.Second
	// insistence is the least time between two writes of the same to a Service,
	// for whoever changed it meanwhile may do so again: in a divided cluster two
	// speakers are right.
	insistence = time.Minute
	// patience is how long an address must have been announced by another than
	// the node where it is placed until the place is changed, when it is more
	// than a failover: the node was never heard, because the cluster is starting,
	// or the controller is to find another place, because configuration forbids
	// this one.
	patience = 30 * time.Second
	// doubt is the same after a failover: the owner may be the one that was cut
	// off, and about to learn so; or it is giving the address away. The condition
	// waits for it, too, so that one write says all. Nothing depends on either:
	// claims keep the address.
	doubt = time.Second
	// calm is the least time between two looks at everything, for each thousand
	// Services begun: a look at one takes about a microsecond.
	calm = 100 * time.Millisecond
	// bulletins bounds the conflicts that wait to be told.
	bulletins = 64
)

// A herald tells the API server what is announced. It looks at the newest view
// only: what was true in between is nobody's concern.
//
// One speaker speaks for a Service: the owner of its first address that is in
// trouble (its owner does not claim it: a stranger may use it), or else of the
// first that has one. Where no address has an owner, one of those that advertise
// it by BGP does, the same for all who hear each other's sessions in gossip, and
// another one for another Service. Where none does either, the first live speaker
// by name does. Where configuration alone forbids it, the controller has the word.
type herald struct {
	self     string
	reporter Reporter
	log      *slog.Logger
	metrics  *metrics

	mu       sync.Mutex
	view     *view
	conflict []conflicts
	news     chan struct{}

	// What follows belongs to run.
	index     *announce.Index
	byService map[lb.ServiceKey][]int // of index: verdicts, ascending
	keys      []lb.ServiceKey         // of byService, by first address
	// owners are the owners last told of, by whomever.
	owners map[netip.Addr]string
	// silent is since when a Service has had an address without an owner.
	silent map[lb.ServiceKey]time.Time
	// said is what this node wrote last.
	said map[lb.ServiceKey]statement
	// met are the nodes that were heard, and strays are the addresses that are
	// placed on others and announced by this one, since when.
	met     map[string]bool
	strays  map[netip.Addr]time.Time
	scratch []announce.Decision
	// recounted is since when a condition differs from what its Service says in the
	// number of nodes.
	recounted map[lb.ServiceKey]recount
}

type statement struct {
	Report
	at time.Time
}

// covers reports whether a statement says all that a report does.
func (s statement) covers(r Report) bool {
	for a, node := range r.Places {
		if s.Places[a] != node {
			return false
		}
	}
	return s.Condition == r.Condition
}

// and returns the statement with a report on top of it.
func (s statement) and(r Report, now time.Time) statement {
	places := maps.Clone(s.Places)
	if places == nil {
		places = map[netip.Addr]string{}
	}
	maps.Copy(places, r.Places)
	return statement{Report{r.Condition, places}, now}
}

// A view is what a pass decided, and upon what.
type view struct {
	index   *announce.Index
	intent  announce.Intent
	members []election.Member
	// offered are the addresses that this node is about to give away, ascending.
	offered []netip.Addr
	// held are the addresses that this node is to announce and does not: a
	// stranger uses them, or, where there is none yet, their segment is being
	// asked.
	held map[netip.Addr]layer2.Heard
	// carriers are the members' BGP sessions.
	carriers map[string][]uint32
}

// trouble reports whether the owner of an address does not announce it.
func (v *view) trouble(d announce.Decision, self string) bool {
	if d.Owner == self {
		_, held := v.held[d.Address]
		return held
	}
	i, is := slices.BinarySearchFunc(v.members, d.Owner, func(m election.Member, node string) int { return strings.Compare(m.Node, node) })
	return is && v.members[i].Claims[d.Address].None()
}

// asking reports whether it is not known yet if an address can be announced.
func (v *view) asking(verdicts []announce.Decision) bool {
	return slices.ContainsFunc(verdicts, func(d announce.Decision) bool {
		by, held := v.held[d.Address]
		return held && by == layer2.Heard{}
	})
}

type conflicts struct {
	services []lb.ServiceKey
	heard    layer2.Heard
}

func newHerald(self string, r Reporter, log *slog.Logger, m *metrics) *herald {
	return &herald{
		self: self, reporter: r, log: log, metrics: m,
		news: make(chan struct{}, 1), owners: map[netip.Addr]string{}, silent: map[lb.ServiceKey]time.Time{}, said: map[lb.ServiceKey]statement{},
		met: map[string]bool{}, strays: map[netip.Addr]time.Time{}, recounted: map[lb.ServiceKey]recount{},
	}
}

// tell hands over the newest view. It does not wait.
func (h *herald) tell(v view) {
	h.mu.Lock()
	h.view = &v
	h.mu.Unlock()
	h.wake()
}

// quarrel hands over a conflict. It does not wait.
func (h *herald) quarrel(services []lb.ServiceKey, heard layer2.Heard) {
	h.mu.Lock()
	if len(h.conflict) < bulletins {
		h.conflict = append(h.conflict, conflicts{services, heard})
	}
	h.mu.Unlock()
	h.wake()
}

func (h *herald) wake() {
	select {
	case h.news <- struct{}{}:
	default:
	}
}

func (h *herald) take() (view, []conflicts) {
	h.mu.Lock()
	defer h.mu.Unlock()
	c := h.conflict
	h.conflict = nil
	if h.view == nil {
		return view{}, c
	}
	return *h.view, c
}

// run writes until ctx is done.
func (h *herald) run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	<-timer.C
	wait := time.Duration(0) // not 0 while the API server is not to be had
	for {
		select {
		case <-ctx.Done():
			return
		case <-h.news:
			if wait > 0 {
				continue
			}
		case <-timer.C:
		}
		v, conflicts := h.take()
		for _, c := range conflicts {
			h.reportConflict(c)
		}
		if v.index == nil {
			continue
		}
		again, ok := h.report(ctx, v)
		switch {
		case !ok:
			wait = min(max(soon, 2*wait), late)
			timer.Reset(wait + rand.N(wait/4))
			continue
		case wait > 0:
			h.log.Info("the API server takes our reports again")
			wait = 0
		}
		if again > 0 {
			timer.Reset(again)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(calm * time.Duration(1+len(h.keys)/1000)):
		}
	}
}

// report writes what differs between a view and what the Services say. It
// returns after how long to look again at what is not to be written yet, 0 for
// nothing, and false when something could not be written.
func (h *herald) report(ctx context.Context, v view) (again time.Duration, ok bool) {
	h.arrange(v.index)
	h.meet(v.members)
	v.carriers = announce.Carriers(v.members)
	ok = true
	failures := 0
	for _, key := range h.keys {
		verdicts := h.verdicts(v, key)
		want, news, wait := h.differs(v, key, verdicts, time.Now())
		again = sooner(again, wait)
		if wait > 0 && wait <= doubt {
			continue
		}
		if news == nothing {
			delete(h.silent, key)
			delete(h.recounted, key)
			h.note(verdicts)
			continue
		}
		have, _ := h.reporter.Announced(key)
		if wait := max(h.premature(key, want, time.Now()), h.recounts(key, have, want, time.Now())); wait > 0 {
			again = sooner(again, wait)
			continue
		}
		if !same(verdicts, h.newest().intent) {
			continue // not any more; the newer view is next
		}
		written, err := h.reporter.SetAnnounced(ctx, key, want)
		if ctx.Err() != nil {
			return 0, true
		}
		if err != nil {
			h.metrics.reports.WithLabelValues("failed").Inc()
			if ok {
				h.log.Warn("report what is announced", "service", key, "err", err)
			}
			ok = false
			if failures++; failures == tries {
				return 0, false
			}
			continue
		}
		failures = 0
		h.said[key] = h.said[key].and(want, time.Now())
		if written {
			h.metrics.reports.WithLabelValues("written").Inc()
			if news == otherwise && !(owned(verdicts) == "" && have.Announced && want.Announced) {
				h.reporter.Event(key, h.event(verdicts, want.Condition))
			}
		}
		h.note(verdicts)
		select {
		case <-ctx.Done():
			return 0, true
		case <-time.After(between):
		}
	}
	return again, ok
}

// news is what a Service does not say yet.
type news uint8

const (
	// nothing: it says all of it.
	nothing news = iota
	// elsewhere: its condition is right, but not the record of its places.
	elsewhere
	// otherwise: its condition is another one.
	otherwise
)

// differs returns what this node has to say about a Service, what of it the
// Service does not say, and after how long there may be more.
func (h *herald) differs(v view, key lb.ServiceKey, verdicts []announce.Decision, now time.Time) (want Report, is news, wait time.Duration) {
	if h.spokesman(v, key, verdicts) != h.self || v.asking(verdicts) {
		return Report{}, nothing, 0
	}
	have, exists := h.reporter.Announced(key)
	if !exists {
		return Report{}, nothing, 0
	}
	want.Condition = condition(verdicts, v.held, h.routes(v, verdicts))
	want.Places, wait = h.moved(v, verdicts, have.Places, now)
	switch {
	case have.Condition != want.Condition:
		is = otherwise
	case len(want.Places) > 0:
		is = elsewhere
	}
	return want, is, wait
}

// moved returns the addresses that are not recorded where they should be, and
// after how long to look again at those for which it is too early. It is not for
// us to change a record that is newer than what we decided on.
func (h *herald) moved(of view, verdicts []announce.Decision, recorded map[netip.Addr]string, now time.Time) (places map[netip.Addr]string, wait time.Duration) {
	for _, v := range verdicts {
		if _, held := of.held[v.Address]; held || v.Place == v.Placed || recorded[v.Address] != v.Placed {
			delete(h.strays, v.Address)
			continue
		}
		if h.strays[v.Address].IsZero() {
			h.strays[v.Address] = now
		}
		_, offered := slices.BinarySearchFunc(of.offered, v.Address, netip.Addr.Compare)
		if left := h.strays[v.Address].Add(h.hesitation(v)).Sub(now); left > 0 {
			wait = sooner(wait, left)
			continue
		} else if offered {
			continue // to be given away, as soon as the other one takes it
		}
		if places == nil {
			places = map[netip.Addr]string{}
		}
		places[v.Address] = v.Place
	}
	return places, wait
}

// hesitation is how long the owner of an address waits until it records itself.
func (h *herald) hesitation(v announce.Decision) time.Duration {
	switch {
	case !v.Permitted || !h.met[v.Placed]:
		return patience
	case v.Fit && v.Owner != h.self:
		return patience // its owner, who does not speak for the Service, may offer it
	default:
		return doubt
	}
}

// sooner returns the shorter of two times to wait, 0 being for ever.
func sooner(a, b time.Duration) time.Duration {
	if a == 0 || b == 0 {
		return max(a, b)
	}
	return min(a, b)
}

// meet remembers who was heard.
func (h *herald) meet(members []election.Member) {
	for _, m := range members {
		if m.State == election.Alive && !h.met[m.Node] {
			h.met[m.Node] = true
		}
	}
}

// premature returns how long to wait before a report is written.
func (h *herald) premature(key lb.ServiceKey, want Report, now time.Time) time.Duration {
	if last := h.said[key]; last.covers(want) && now.Sub(last.at) < insistence {
		return last.at.Add(insistence).Sub(now)
	}
	if want.Announced {
		delete(h.silent, key)
		return 0
	}
	if h.silent[key].IsZero() {
		h.silent[key] = now
	}
	return h.silent[key].Add(settled).Sub(now)
}

// arrange groups an index by Service.
func (h *herald) arrange(ix *announce.Index) {
	if ix == h.index {
		return
	}
	h.index = ix
	h.byService = map[lb.ServiceKey][]int{}
	h.keys = nil
	addresses := ix.Addresses()
	inUse := make(map[netip.Addr]string, len(addresses))
	for i, a := range addresses {
		for _, key := range ix.Services(a) {
			if h.byService[key] == nil {
				h.keys = append(h.keys, key)
			}
			h.byService[key] = append(h.byService[key], i)
		}
		if owner, known := h.owners[a]; known {
			inUse[a] = owner
		}
	}
	// What is not in use is forgotten.
	h.owners = inUse
	maps.DeleteFunc(h.silent, func(key lb.ServiceKey, _ time.Time) bool { return h.byService[key] == nil })
	maps.DeleteFunc(h.strays, func(a netip.Addr, _ time.Time) bool { return ix.Services(a) == nil })
	maps.DeleteFunc(h.recounted, func(key lb.ServiceKey, _ recount) bool { return h.byService[key] == nil })
	maps.DeleteFunc(h.said, func(key lb.ServiceKey, _ statement) bool { return h.byService[key] == nil })
}

// verdicts returns those on the addresses of a Service, until it is called
// again.
func (h *herald) verdicts(v view, key lb.ServiceKey) []announce.Decision {
	h.scratch = h.scratch[:0]
	for _, i := range h.byService[key] {
		h.scratch = append(h.scratch, v.intent.Decisions[i])
	}
	return h.scratch
}

// newest returns the newest view.
func (h *herald) newest() view {
	h.mu.Lock()
	defer h.mu.Unlock()
	return *h.view
}

// same reports whether an intent still says so.
func same(verdicts []announce.Decision, intent announce.Intent) bool {
	for _, v := range verdicts {
		now, _ := intent.Decision(v.Address)
		if now.Owner != v.Owner || now.Reason != v.Reason || !slices.Equal(now.Services, v.Services) {
			return false
		}
	}
	return true
}

// spokesman returns who reports on a Service, empty for no speaker.
func (h *herald) spokesman(v view, key lb.ServiceKey, verdicts []announce.Decision) string {
	possible, owner := false, ""
	for _, d := range verdicts {
		if d.Owner != "" && v.trouble(d, h.self) {
			return d.Owner
		}
		owner = cmp.Or(owner, d.Owner)
		possible = possible || v.index.Refusal(d.Address).Reason == announce.Eligible
	}
	if owner != "" {
		return owner
	}
	if node := chosen(key, h.routes(v, verdicts)); node != "" {
		return node
	}
	if !possible {
		return ""
	}
	for _, m := range v.members {
		if m.State == election.Alive {
			return m.Node
		}
	}
	return ""
}

// note remembers what is known to whoever reads the Service.
func (h *herald) note(verdicts []announce.Decision) {
	for _, v := range verdicts {
		if h.owners[v.Address] != v.Owner {
			h.owners[v.Address] = v.Owner
		}
	}
}

// condition says what is decided about the addresses of a Service, of which
// routes is BGP's part. An address is announced when one protocol does, unless a
// stranger uses it.
func condition(verdicts []announce.Decision, held map[netip.Addr]layer2.Heard, routes []route) Condition {
	c := Condition{Announced: true, Reason: "Announced"}
	asked, routed := false, false
	for i, v := range verdicts {
		asked = asked || v.Reason != announce.NoAdvertisement
		routed = routed || routes[i].asked
		if _, is := held[v.Address]; is {
			c.Announced, c.Reason = false, announce.AddressConflict.String()
			continue
		}
		if v.Owner != "" || len(routes[i].nodes) > 0 || !c.Announced {
			continue
		}
		c.Announced, c.Reason = false, v.Reason.String()
		if v.Reason == announce.NoAdvertisement && routes[i].asked {
			c.Reason = routes[i].reason.String()
		}
	}
	var parts []string
	if asked || !routed {
		parts = append(parts, "announced by layer 2"+owners(verdicts, held))
	}
	if routed {
		parts = append(parts, byBGP+advertisers(verdicts, routes))
	}
	c.Message = strings.Join(parts, "; ")
	return c
}

// owners says which node owns which address.
func owners(verdicts []announce.Decision, held map[netip.Addr]layer2.Heard) string {
	first := verdicts[0].Owner
	if first != "" && !slices.ContainsFunc(verdicts, func(v announce.Decision) bool {
		_, is := held[v.Address]
		return is || v.Owner != first
	}) {
		return " from node " + first
	}
	var parts []string
	for _, v := range verdicts {
		if by, is := held[v.Address]; is {
			parts = append(parts, fmt.Sprintf("%v from no node (%v: station %v uses it on the segment of node %s)", v.Address, announce.AddressConflict, by.MAC, v.Owner))
		} else if v.Owner == "" {
			parts = append(parts, fmt.Sprintf("%v from no node (%v)", v.Address, v.Reason))
		} else {
			parts = append(parts, fmt.Sprintf("%v from node %s", v.Address, v.Owner))
		}
	}
	return ": " + strings.Join(parts, ", ")
}

// event tells how a Service came to its condition.
func (h *herald) event(verdicts []announce.Decision, is Condition) Event {
	if is.Reason == announce.AddressConflict.String() {
		return Event{AddressConflict, is.Message}
	}
	if !is.Announced {
		return Event{NotAnnounced, is.Message}
	}
	var moves []string
	for _, v := range verdicts {
		if was := h.owners[v.Address]; was != "" && was != v.Owner {
			moves = append(moves, fmt.Sprintf("%v from node %s to node %s", v.Address, was, v.Owner))
		}
	}
	if len(moves) == 0 {
		return Event{Announcing, is.Message}
	}
	return Event{AnnouncementMoved, "moved " + strings.Join(moves, ", ")}
}

func (h *herald) reportConflict(c conflicts) {
	message := fmt.Sprintf("station %v uses the address %v too (%v)", c.heard.MAC, c.heard.Address, c.heard.Kind)
	for _, key := range c.services {
		h.reporter.Event(key, Event{AddressConflict, message})
	}
}
