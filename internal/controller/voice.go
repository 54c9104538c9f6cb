package controller

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/time/rate"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/belfrylb/belfry/internal/announce"
	"github.com/belfrylb/belfry/internal/election"
	"github.com/belfrylb/belfry/internal/eligibility"
	"github.com/belfrylb/belfry/internal/kube"
	"github.com/belfrylb/belfry/internal/lb"
	"github.com/belfrylb/belfry/internal/objects"
	"github.com/belfrylb/belfry/internal/report"
)

// Where these are from: docs/design/one-voice.md.
const (
	// viewPause is the least time between two looks at what the speakers say, and
	// overhaulPause between two at all Services because of something that concerns
	// them all.
	viewPause     = 50 * time.Millisecond
	overhaulPause = time.Second
	// tellPause is the least time between two writes that only tell: 250 a second.
	// While addresses wait to be assigned, they have a tenth of that.
	tellPause     = 4 * time.Millisecond
	tellPauseBusy = 10 * tellPause
	// longLine is how many must wait to be told for those whose result is awaited to let
	// others go first, for resultPatience at most (docs/design/proof.md).
	longLine       = 100
	resultPatience = 2 * time.Second
	// firstBurst Services that are new are told at once what is known of them, and
	// firstRate more each second; the others when they have endpoints and their result is
	// known, or after firstPatience (docs/design/pacing.md).
	firstBurst    = 20
	firstRate     = 2
	firstPatience = 10 * time.Second
	// sessionPause is the least time between two Events about one session, and
	// conflictAge how old a conflict may be to be told by a leader that is new.
	sessionPause = 30 * time.Second
	conflictAge  = 50 * time.Minute
	// unreported is how long a speaker that others hear has to report what it does.
	unreported = 10 * time.Second
)

// A voice is what the loop knows of what the speakers say, and what it tells of it.
type voice struct {
	teller report.Teller
	view   *report.View
	// viewed is when the view was made, viewing when to make it anew, overhauled
	// when all Services were looked at last, and overhauling when to do so again;
	// zero for never.
	viewed, viewing, overhauled, overhauling time.Time
	// retells are the Services to be looked at again, at which time.
	retells map[lb.ServiceKey]time.Time
	// telling are the Services that wait for their turn to be told, first come first
	// served, and told is when the last was.
	telling []*service
	told    time.Time
	// firsts are the new ones that may be told at once.
	firsts *rate.Limiter
	// sessions is when an Event told of a session, by node and peer; conflicts are
	// those that were told, strays what was told of the settings of nodes. Unknown are
	// the nodes whose speakers do not report, since when; a zero time says that this
	// was told.
	sessions  map[[2]string]time.Time
	conflicts map[report.Conflict]bool
	strays    map[string]report.Settings
	unknown   map[string]time.Time
	// blocked is what was told of the nodes to which gossip is blocked, by node.
	blocked map[string]string
}

func newVoice() voice {
	return voice{
		retells: map[lb.ServiceKey]time.Time{}, sessions: map[[2]string]time.Time{},
		conflicts: map[report.Conflict]bool{}, strays: map[string]report.Settings{},
		firsts: rate.NewLimiter(firstRate, firstBurst),
	}
}

// listen makes the view anew if it is time, and returns the Services that it is news
// for.
func (l *loop) listen(now time.Time) []lb.ServiceKey {
	if due := l.viewed.Add(viewPause); now.Before(due) {
		l.viewing = due
		return nil
	}
	ready := make(map[string]bool, len(l.setting.Nodes))
	for _, n := range l.setting.Nodes {
		ready[n.Name] = !n.NotReady
	}
	before := l.view
	l.view = report.NewView(before, l.Cluster.Reports(), now, func(node string) (exists, fit bool) {
		fit, exists = ready[node]
		return exists, fit
	})
	l.viewed, l.viewing = now, l.view.Until
	changed, rest := l.view.Changed(before)
	var keys []lb.ServiceKey
	for a := range changed {
		keys = append(keys, l.holders[a]...)
	}
	if rest && l.overhauling.IsZero() {
		l.overhauling = l.overhauled.Add(overhaulPause)
	}
	if before != nil {
		l.tellSessions(l.view.SessionChanges(before), now)
	}
	l.tellConflicts(now)
	l.tellStrays()
	l.tellBlocked()
	l.tellUnknown(now)
	if speakers, known := l.view.Speakers(l.setting.Nodes); known && l.Gossip != nil {
		l.Gossip.SetSpeakers(speakers)
	}
	l.settleSessions()
	l.Metrics.hear(l.view, l.setting.Nodes)
	return keys
}

// inform decides what Services of an index are told.
func (l *loop) inform(index *announce.Index, services []lb.Service, now time.Time) {
	subjects := make([]report.Subject, 0, len(services))
	for i := range services {
		is, _ := l.Cluster.Service(services[i].Key)
		subjects = append(subjects, report.Subject{Key: services[i].Key, Addresses: services[i].Assigned, Says: said(is.Announced)})
	}
	for _, t := range l.teller.Tell(index, l.view, subjects, func(a netip.Addr) string { return l.places.of[a] }, now) {
		s := l.services[t.Service]
		s.announced, s.expects = conditionOf(t.Condition), t.Expects
		if t.Event != (report.Event{}) {
			s.event = t.Event
		}
		for a, node := range t.Record {
			l.places.set(a, node)
		}
		for _, is := range t.Standings {
			l.stand(is)
		}
		delete(l.retells, t.Service)
		if t.Again > 0 {
			l.retells[t.Service] = now.Add(t.Again)
		}
	}
}

// stand counts an address by what becomes of it.
func (l *loop) stand(is report.AddressStanding) {
	was, counted := l.standings[is.Address]
	if counted && was == is || len(l.holders[is.Address]) == 0 {
		return
	}
	if counted {
		l.Metrics.stand(was, -1)
	}
	l.Metrics.stand(is, +1)
	l.standings[is.Address] = is
}

// counts counts a Service by what it is told, or was told before.
func (l *loop) counts(key lb.ServiceKey, s *service) {
	var is announcing
	if len(s.decision.Assignments) > 0 {
		c := s.announced
		if c == nil {
			has, _ := l.Cluster.Service(key)
			c = &has.Announced
		}
		is = announcing{c.Status == metav1.ConditionTrue, cmp.Or(c.Reason, untold)}
	}
	l.Metrics.tell(s.counted, is)
	s.counted = is
}

func said(c objects.Condition) report.Condition {
	return report.Condition{Announced: c.Status == metav1.ConditionTrue, Reason: c.Reason, Message: c.Message}
}

// conditionOf is a condition as a Service carries it, nil for one that stays.
func conditionOf(c report.Condition) *objects.Condition {
	if c == (report.Condition{}) {
		return nil
	}
	out := &objects.Condition{Status: metav1.ConditionFalse, Reason: c.Reason, Message: c.Message}
	if c.Announced {
		out.Status = metav1.ConditionTrue
	}
	return out
}

// tellsOnly reports whether what a Service lacks is what it is told alone, which can
// wait until those that lack an address have one.
func tellsOnly(is objects.Service, want objects.ServiceWrite, missing objects.Parts) bool {
	want.Announced, want.Placed = nil, is.Placed
	return is.Missing(want)&missing == 0
}

// noEndpoint is what a new Service is told for as long as its endpoints are not known.
var noEndpoint = eligibility.NoEndpoint.String()

// isNew reports whether a Service says nothing yet, or only that it has no endpoints.
func isNew(says objects.Condition) bool {
	return says == objects.Condition{} || says.Reason == noEndpoint
}

// unfinished reports whether a Service is likely to be told something else soon.
func (s *service) unfinished() bool {
	return s.expects || s.announced != nil && s.announced.Reason == noEndpoint
}

// await puts a Service in line to be told.
func (l *loop) await(s *service, says objects.Condition, now time.Time) {
	if !s.inLine {
		s.inLine, s.lined = true, now
		s.patient = isNew(says) && s.unfinished() && !l.firsts.AllowN(now, 1)
		l.telling = append(l.telling, s)
	}
}

// next returns which Service in line is to be told next, and when at the soonest. In a
// long line those whose result is awaited let others go first, and so do those of which
// many are new: most are told once, then, where they are, and that it was verified.
func (l *loop) next() (i int, ripe time.Time) {
	for k, s := range l.telling {
		patience := resultPatience
		switch {
		case s.patient && s.unfinished():
			patience = firstPatience
		case !s.expects || len(l.telling) < longLine:
			return k, time.Time{}
		}
		if at := s.lined.Add(patience); k == 0 || at.Before(ripe) {
			i, ripe = k, at
		}
	}
	return i, ripe
}

// turn returns when the next Service in line may be told; zero for none.
func (l *loop) turn() time.Time {
	if len(l.telling) == 0 {
		return time.Time{}
	}
	due := l.told.Add(tellPause)
	if len(l.backlog) > 0 {
		due = l.told.Add(tellPauseBusy)
	}
	if _, ripe := l.next(); ripe.After(due) {
		return ripe
	}
	return due
}

// serve lets the next in line be told.
func (l *loop) serve(now time.Time) {
	for due := l.turn(); !due.IsZero() && !now.Before(due); due = l.turn() {
		i, _ := l.next()
		s := l.telling[i]
		l.telling = slices.Delete(l.telling, i, i+1)
		s.inLine, s.itsTurn = false, true
		l.told = now
		l.look(&s.attempt)
	}
}

// retell looks again at the Services whose time has come, at the view, or at
// everything.
func (l *loop) retell(now time.Time) {
	due := func(t time.Time) bool { return !t.IsZero() && !now.Before(t) }
	if due(l.viewing) {
		l.reconsider(l.listen(now))
	}
	if due(l.overhauling) {
		l.overhauling, l.overhauled = time.Time{}, now
		l.reconsider(slices.Collect(maps.Keys(l.services)))
		return
	}
	var keys []lb.ServiceKey
	for key, at := range l.retells {
		if due(at) {
			keys = append(keys, key)
		}
	}
	for _, key := range keys {
		delete(l.retells, key)
	}
	l.reconsider(keys)
}

// reconsider judges Services, and those that share addresses with them, and settles
// them.
func (l *loop) reconsider(keys []lb.ServiceKey) {
	if len(keys) == 0 {
		return
	}
	for _, key := range keys {
		if s := l.services[key]; s != nil {
			keys = append(keys, l.sharing(s.decision)...)
		}
	}
	slices.SortFunc(keys, lb.ServiceKey.Compare)
	keys = slices.Compact(keys)
	l.judge(keys)
	for _, key := range keys {
		if s := l.services[key]; s != nil {
			l.look(&s.attempt)
		}
	}
}

// tellEvent tells what has become of a Service, once that is written to its condition.
// If it stands there already, its writer has told. Where another writer insists on
// another condition, the Event is all that can be told.
func (l *loop) tellEvent(is objects.Service, s *service, want objects.ServiceWrite, wrote objects.Parts) {
	e := s.event
	if e == (report.Event{}) || want.Announced == nil || s.announced == nil || *want.Announced != *s.announced {
		return
	}
	stands := !is.Missing(want).Has(objects.PartAnnounced)
	tells := !stands && (wrote | s.rivalry.over).Has(objects.PartAnnounced)
	if stands || tells {
		s.event = report.Event{}
	}
	if tells {
		l.Events.Record(kube.Event{About: is.Reference(), Warning: e.Kind.Warns(), Reason: string(e.Kind), Action: "Announce", Note: e.Message})
	}
}

// Reasons of Events about BGPPeers and SpeakerStatuses.
const (
	eventEstablished = "SessionEstablished"
	eventLost        = "SessionLost"
	eventSettings    = "SettingsDiffer"
	eventBlocked     = "GossipBlocked"
	eventUnblocked   = "GossipRestored"
)

// tellSessions tells of sessions that were established or lost, but not of one that
// comes and goes all the time.
func (l *loop) tellSessions(changes []report.SessionChange, now time.Time) {
	maps.DeleteFunc(l.sessions, func(_ [2]string, at time.Time) bool { return now.Sub(at) >= sessionPause })
	for _, c := range changes {
		key := [2]string{c.Node, c.Peer}
		peer, _, ok := l.Cluster.Judged(kube.KindBGPPeer, c.Peer)
		if _, lately := l.sessions[key]; lately || !ok {
			continue
		}
		l.sessions[key] = now
		e := kube.Event{About: kube.Reference(kube.KindBGPPeer, peer), Action: "Peer"}
		if c.Established {
			e.Reason, e.Note = eventEstablished, fmt.Sprintf("node %s has a session with %s", c.Node, c.Remote)
		} else {
			e.Warning, e.Reason, e.Note = true, eventLost, fmt.Sprintf("node %s has lost the session: %s", c.Node, c.Error)
		}
		l.Events.Record(e)
	}
}

// tellConflicts tells of foreign stations that use addresses which are announced all
// the same: of each once, whichever replica leads.
func (l *loop) tellConflicts(now time.Time) {
	there := map[report.Conflict]bool{}
	for _, c := range l.view.Conflicts() {
		there[c] = true
		if l.conflicts[c] || now.Sub(c.At) > conflictAge {
			continue
		}
		for _, key := range l.holders[c.Address] {
			is, ok := l.Cluster.Service(key)
			if !ok {
				continue
			}
			l.Events.Record(kube.Event{
				About: is.Reference(), Warning: true, Reason: string(report.AddressConflict), Action: "Announce",
				Note: conflictNote(c),
				Once: fmt.Sprint(c.Address, c.MAC, c.At.UnixMicro()),
			})
		}
	}
	l.voice.conflicts = there
}

func conflictNote(c report.Conflict) string {
	if c.Node == "" {
		return fmt.Sprintf("station %v uses the address %v too (%s)", c.MAC, c.Address, c.Heard)
	}
	return fmt.Sprintf("node %s (station %v) uses the address %v too (%s): its kernel has the address, or gossip does not reach its speaker",
		c.Node, c.MAC, c.Address, c.Heard)
}

// tellStrays tells of speakers with other settings than ours: they act on other
// Services or nodes than we expect.
func (l *loop) tellStrays() {
	there := map[string]report.Settings{}
	for _, r := range l.view.Strays(l.Settings) {
		there[r.Node] = r.Settings
		if was, told := l.strays[r.Node]; told && was == r.Settings {
			continue
		}
		note := "the flags of the speaker differ from the controller's: " + r.Settings.Differs(l.Settings)
		l.Log.Warn("flags differ", "node", r.Node, "reason", note)
		if about, ok := l.Cluster.SpeakerReference(r.Node); ok {
			l.Events.Record(kube.Event{About: about, Warning: true, Reason: eventSettings, Action: "Listen", Note: note, Once: note})
		}
	}
	l.voice.strays = there
}

// tellBlocked tells between which nodes gossip is blocked, and of each when it is not any
// more.
func (l *loop) tellBlocked() {
	there := map[string]string{}
	tell := func(node string, e kube.Event) {
		if about, ok := l.Cluster.SpeakerReference(node); ok {
			e.About, e.Action = about, "Gossip"
			l.Events.Record(e)
		}
	}
	reports := l.view.Gossiping()
	for _, node := range slices.Sorted(maps.Keys(reports)) {
		r := reports[node]
		note := election.Describe(r.Blocked)
		if note == "" {
			continue
		}
		if there[r.Node] = note; l.blocked[r.Node] != note {
			tell(r.Node, kube.Event{Warning: true, Reason: eventBlocked, Note: note, Once: fmt.Sprint(note, r.BlockedSince.Unix())})
		}
	}
	for node := range l.blocked {
		switch _, still := there[node]; {
		case still:
		case reports[node] != nil:
			tell(node, kube.Event{Reason: eventUnblocked, Note: "gossip is not blocked any more between this node and others"})
		default:
			there[node] = l.blocked[node] // it is not known any more
		}
	}
	l.blocked = there
}

// tellUnknown tells of speakers that others hear and that report nothing: Services are
// told nothing new of their nodes.
func (l *loop) tellUnknown(now time.Time) {
	there := map[string]time.Time{}
	for _, n := range l.setting.Nodes {
		if !l.view.Unknown(n.Name) {
			continue
		}
		since, known := l.unknown[n.Name]
		if !known {
			since = now
		}
		switch due := since.Add(unreported); {
		case since.IsZero():
		case now.Before(due):
			if l.viewing.IsZero() || due.Before(l.viewing) {
				l.viewing = due
			}
		default:
			l.Log.Warn("a speaker lives and does not report what it does", "node", n.Name,
				"reason", "its SpeakerStatus is missing, or it is of an older version; Services keep what they were told last")
			since = time.Time{}
		}
		there[n.Name] = since
	}
	l.unknown = there
}
