package controller

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/belfrylb/belfry/internal/allocator"
	"github.com/belfrylb/belfry/internal/contest"
	"github.com/belfrylb/belfry/internal/kube"
	"github.com/belfrylb/belfry/internal/lb"
	"github.com/belfrylb/belfry/internal/objects"
)

// Contested is the reason of the condition Allocated while another writer insists on
// other addresses in a Service's status than those that we give.
const Contested = "Contested"

// A rivalry is what becomes of what we write to one Service.
type rivalry struct {
	logs [objects.NumParts]contest.Log
	// over are the parts that another writer insists on.
	over objects.Parts
	// by is who that is, once it has been asked for.
	by string
}

// told are the parts of which is told that they are contested, and by whom. What becomes
// of our annotations concerns no decision, as they are there for people.
const told = objects.AllParts &^ (1 << objects.PartAnnotations)

// nameless reports whether it is still to be asked for who contests a status.
func (r *rivalry) nameless() bool { return r.over&told != 0 && r.by == "" }

// quiet reports whether nobody has undone anything lately.
func (r *rivalry) quiet() bool {
	return !slices.ContainsFunc(r.logs[:], func(l contest.Log) bool { return !l.Quiet() })
}

// wrote takes note of what was written.
func (r *rivalry) wrote(parts objects.Parts, digests [objects.NumParts]uint64) {
	for p := range objects.NumParts {
		if parts.Has(p) {
			r.logs[p].Wrote(time.Now(), digests[p])
		}
	}
}

// insist decides what of that which a Service lacks is written now, and has it looked at
// again when the rest may be.
func (l *loop) insist(s *service, is *objects.Service, want objects.ServiceWrite) (write objects.Parts) {
	r, now := &s.rivalry, time.Now()
	missing := is.Missing(want)
	if missing == 0 && r.over == 0 && r.quiet() {
		return 0 // as mostly
	}
	digests, shown := want.Digests(), is.Shown()
	var over objects.Parts
	decide := func(p objects.Part, missing objects.Parts) {
		v := r.logs[p].Decide(now, contest.Seen{Want: digests[p], Missing: missing.Has(p), Others: shown[p]})
		if v.Write {
			write = write.With(p)
		}
		if v.Contested {
			over = over.With(p)
		}
		if !v.Again.IsZero() {
			l.lookAt(&s.attempt, v.Again)
		}
	}
	for _, p := range []objects.Part{objects.PartIngress, objects.PartAnnounced, objects.PartAnnotations} {
		decide(p, missing)
	}
	decide(objects.PartRecords, is.Missing(contestedWrite(want, over, r.by, s.decision, is))) // which tell of the ingress

	if over == r.over {
		return write
	}
	l.Metrics.count(s.reason(), -1)
	r.over = over
	l.Metrics.count(s.reason(), +1)
	if over&told == 0 && r.by != "" {
		r.by = ""
		l.Log.Info("what we write to a status stays there again", "service", is.Key.String())
	}
	return write
}

// contested is what a Service should carry as it stands.
func (s *service) contested(w objects.ServiceWrite, is *objects.Service) objects.ServiceWrite {
	return contestedWrite(w, s.rivalry.over, s.rivalry.by, s.decision, is)
}

// contestedWrite is what a Service should carry while others insist on some parts.
func contestedWrite(w objects.ServiceWrite, over objects.Parts, by string, d allocator.Decision, is *objects.Service) objects.ServiceWrite {
	if !over.Has(objects.PartIngress) || w.Allocated == (objects.Condition{}) {
		return w
	}
	if is.Allocated.Reason == Contested && !is.Missing(w).Has(objects.PartIngress) {
		w.Allocated = is.Allocated // until it has stayed
		return w
	}
	keeps := "keeps " + strings.TrimPrefix(d.Sentence(), "holds ")
	if len(d.Assignments) == 0 {
		keeps = "waits: " + d.Sentence()
	}
	w.Allocated.Status = metav1.ConditionFalse
	switch hidden := slices.ContainsFunc(w.Addresses, func(a netip.Addr) bool { return !is.Shows(a) }); {
	case hidden:
		keeps += ", not announced until status shows it again"
	case d.Allocated():
		w.Allocated.Status = metav1.ConditionTrue
	}
	w.Allocated.Reason = Contested
	w.Allocated.Message = fmt.Sprintf("%s changes what Belfry writes to status.loadBalancer, so Belfry has stopped; the Service %s; "+
		"stop the other writer, or give the Service a loadBalancerClass of its own", by, keeps)
	return w
}

// contests tells that another writer contests a Service's status. The condition says so, too,
// unless that is contested as well.
func (l *loop) contests(is objects.Service, w objects.ServiceWrite, over objects.Parts, by string) {
	l.Log.Warn("what we write to a status is undone each time: no longer writing it", "service", is.Key.String(), "reason", by)
	note := by + " undoes what Belfry writes to the status, so Belfry has stopped; stop the other writer"
	if over.Has(objects.PartIngress) && w.Allocated != (objects.Condition{}) {
		note = w.Allocated.Message
	}
	l.Events.Record(kube.Event{About: is.Reference(), Warning: true, Reason: eventFailed, Action: "Allocate", Note: note})
}

// remember returns a Service with what it held when it was last seen and still should,
// where another writer has removed even our record of it. Who leads later does not know
// what was there, and gives another address.
func (s *service) remember(is lb.Service) lb.Service {
	known := s.uid == is.UID
	s.uid = is.UID
	if !known || s.moved == (lb.Move{}) {
		s.moved = is.Moved
	}
	if !known || is.Released || is.Foreign {
		return is
	}
	var held []netip.Addr
	var pools []string
	for _, a := range s.decision.Assignments {
		if slices.Contains(s.seen.Assigned, a.Address) && !slices.Contains(is.Assigned, a.Address) {
			held, pools = append(held, a.Address), append(pools, a.Pool)
		}
	}
	if held != nil {
		is.Withdrawn = slices.Concat(held, is.Withdrawn)
		for _, a := range is.Assigned {
			pools = append(pools, is.RecordOf(a))
		}
		is.Assigned, is.AssignedPools, is.Placed = slices.Concat(held, is.Assigned), pools, nil
	}
	if is.Reallocated == "" && s.seen.Reallocated != "" {
		is.Reallocated = s.decision.Reallocated
	}
	if is.Terms == "" && s.seen.Terms != "" {
		is.Terms = s.decision.Terms
	}
	return is
}

// reason is by what a Service is counted: the reason of its condition Allocated.
func (s *service) reason() standing {
	if s.rivalry.over.Has(objects.PartIngress) {
		return standing{Contested, false}
	}
	return standing{s.decision.Reason.String(), s.decision.Reason.Waiting()}
}
