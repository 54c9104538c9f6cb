package objects

import (
	"net/netip"
	"slices"
	"strings"
	"unicode/utf8"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/belfrylb/belfry/internal/lb"
)

// A ServiceWrite is what a Service is to carry of ours. The zero value, with
// Announced set, removes every trace.
type ServiceWrite struct {
	// Addresses go to status, and Pools, one for each, to our record and, for people,
	// to the annotation.
	Addresses []netip.Addr
	Pools     []string
	// Left are the addresses in status that are not ours. They stay while there are no
	// Addresses, and so does what is no address.
	Left []netip.Addr
	// Placed names the node where layer 2 places each address.
	Placed []string
	// Reallocated is the token to record as honored, and Moved what to record of the
	// last request to move.
	Reallocated string
	Moved       lb.Move
	// Terms are those to record as what it shares its addresses on.
	Terms string
	// Allocated is the condition; the zero Condition removes it.
	Allocated Condition
	// Announced likewise; nil leaves it as it is.
	Announced *Condition
}

// A Patch is a part of a JSON patch by merging.
type Patch = map[string]any

// Patch returns what changes some parts of a Service into what it is to carry, and
// which of them differ from it.
func (s *Service) Patch(w ServiceWrite, only Parts, now metav1.Time) (out Patch, changed Parts) {
	annotations := Patch{}
	annotate := func(key string, have uint64, want string) {
		switch {
		case have == told(want):
		case want == "":
			annotations[key] = nil
		default:
			annotations[key] = want
		}
	}
	annotate(AnnotationPool, s.poolShown, joinNames(w.Pools))
	annotate(AnnotationPlaced, s.placeShown, joinNames(w.Placed))

	status := Patch{}
	ingress, differs := ours(w.Addresses), !s.Exact || !slices.Equal(s.Assigned, w.Addresses)
	if len(w.Addresses) == 0 {
		ingress, differs = s.stays(w.Left)
	}
	if changed.add(PartIngress, differs && only.Has(PartIngress)) {
		status["loadBalancer"] = Patch{"ingress": ingress}
	}
	var conditions []any
	set := func(p Part, t ConditionType, have, want Condition) {
		if c := conditionPatch(t, have, want, now); changed.add(p, c != nil && only.Has(p)) {
			conditions = append(conditions, c)
		}
	}
	set(PartRecords, ConditionAllocated, s.Allocated, w.Allocated)
	set(PartRecords, ConditionRecorded, s.recorded, w.record(s.us))
	set(PartRecords, ConditionReallocated, s.reallocated, fact(honored, w.Reallocated))
	set(PartRecords, ConditionPlaced, s.placed, fact("Recorded", pairs(w.Addresses, recordOn, w.Placed)))
	set(PartRecords, ConditionMoved, s.moved, answer(w.Moved))
	set(PartRecords, ConditionSharing, s.sharing, sharing(w.Terms))
	if w.Announced != nil {
		set(PartAnnounced, ConditionAnnounced, s.Announced, *w.Announced)
	}
	if conditions != nil {
		status["conditions"] = conditions
	}

	metadata := Patch{"uid": s.UID, "resourceVersion": s.Version}
	if changed.add(PartAnnotations, len(annotations) > 0 && only.Has(PartAnnotations)) {
		metadata["annotations"] = annotations
	}
	out = Patch{"metadata": metadata}
	if len(status) > 0 {
		out["status"] = status
	}
	return out, changed
}

// MaxMessage is how many bytes of a condition's message are written, as of an
// Event's note, whose limit is the API's. With it, however JSON spells its
// characters, no write of a Service exceeds 16 KiB (docs/design/bounds.md).
const MaxMessage = 1024

// record is the condition that records what a Service is given, and by which
// installation. What is released has none.
func (w ServiceWrite) record(us string) Condition {
	if w.Allocated == (Condition{}) {
		return Condition{}
	}
	return fact("Recorded", gift{w.Addresses, w.Pools, us}.String())
}

// fact is a condition that stands for its message alone; none where that is empty.
func fact(reason, message string) Condition {
	if message == "" {
		return Condition{}
	}
	return Condition{Status: metav1.ConditionTrue, Reason: reason, Message: message}
}

// The reasons of the condition Moved.
const (
	honored = "Honored"
	refused = "Refused"
)

// answer is the condition that records what became of a request to move.
func answer(m lb.Move) Condition {
	c := fact(honored, m.Token)
	if m.Refused {
		c.Status, c.Reason = metav1.ConditionFalse, refused
	}
	return c
}

// conditionPatch returns the element of a strategic merge patch that changes
// one condition into another, or nil.
func conditionPatch(t ConditionType, have, want Condition, now metav1.Time) any {
	want.Message = Cut(want.Message, MaxMessage)
	switch {
	case want == Condition{}:
		if have == (Condition{}) {
			return nil
		}
		return Patch{"$patch": "delete", "type": t}
	case have.Status == want.Status && have.Reason == want.Reason && have.Message == want.Message:
		return nil
	}
	since := have.Since
	if have.Status != want.Status {
		since = now
	}
	return metav1.Condition{Type: string(t), Status: want.Status, Reason: want.Reason, Message: want.Message, LastTransitionTime: since}
}

// Carries reports whether the Service already is what a write would make of it.
func (s *Service) Carries(w ServiceWrite) bool { return s.Missing(w) == 0 }

// Cut shortens a text to n bytes, between characters.
func Cut(text string, n int) string {
	if len(text) <= n {
		return text
	}
	const mark = "..."
	end := n - len(mark)
	for end > 0 && !utf8.RuneStart(text[end]) {
		end--
	}
	return strings.TrimRight(text[:end], " ,;") + mark
}
