package kube

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
)

func TestEventNamesAreValidForNamesOfAnyLength(t *testing.T) {
	for _, about := range []string{"a", strings.Repeat("a", 63), strings.Repeat("a", 199) + "." + strings.Repeat("b", 53), strings.Repeat("a", 198) + "-." + strings.Repeat("b", 53)} {
		got := eventName(queuedEvent{Event: Event{About: corev1.ObjectReference{Name: about}}, at: time.Unix(1<<33, 999), number: 1 << 62})
		if problems := validation.IsDNS1123Subdomain(got); len(problems) > 0 {
			t.Errorf("%s: %v", got, problems)
		}
	}
}
