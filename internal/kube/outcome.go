package kube

import (
	"net/http"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// An Outcome is what became of a write.
type Outcome uint8

// Outcomes.
const (
	// Unchanged: there was nothing to write, and nothing was sent.
	Unchanged Outcome = iota
	// Done: it is written.
	Done
	// Stale: nothing is written, because the object has changed since it was
	// read. The watch brings what it is now, and a new decision follows.
	Stale
	// Gone: the object does not exist any more.
	Gone
	// Refused: the API server will not have it, and would not have it again as
	// long as nothing changes.
	Refused
	// Busy: the API server turned the write away for now.
	Busy
	// Unknown: no answer came. The write may have happened, or may yet happen.
	Unknown
	// Fenced: nothing was sent, because we may not be the leader any more.
	Fenced
)

var outcomes = [...]string{"unchanged", "done", "stale", "gone", "refused", "busy", "unknown", "fenced"}

// String returns the outcome as metrics spell it.
func (o Outcome) String() string { return outcomes[o] }

// Outcomes returns every outcome, in order.
func Outcomes() []Outcome {
	all := make([]Outcome, len(outcomes))
	for i := range all {
		all[i] = Outcome(i)
	}
	return all
}

// classify turns the error of a write into its outcome.
func classify(err error) Outcome {
	if err == nil {
		return Done
	}
	status, ok := err.(apierrors.APIStatus)
	if !ok {
		return Unknown
	}
	if isAnother(status) {
		return Gone
	}
	switch code := status.Status().Code; {
	case code == http.StatusConflict:
		return Stale
	case code == http.StatusNotFound || code == http.StatusGone:
		return Gone
	case code == http.StatusTooManyRequests || code == http.StatusServiceUnavailable:
		return Busy
	case code >= 400 && code < 500 && code != http.StatusRequestTimeout:
		return Refused
	default:
		return Unknown
	}
}

// isAnother reports whether the write was meant for another object of the same
// name: the API server says of its UID that it cannot be changed.
func isAnother(err apierrors.APIStatus) bool {
	d := err.Status().Details
	return d != nil && slices.ContainsFunc(d.Causes, func(c metav1.StatusCause) bool { return c.Field == "metadata.uid" })
}
