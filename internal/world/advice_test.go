package world

import (
	"testing"

	"github.com/belfrylb/belfry/internal/allocator"
)

func TestEveryReasonThatIsAProblemHasAdvice(t *testing.T) {
	for _, r := range allocator.Reasons() {
		if none := r == allocator.Allocated || r == allocator.NotOurs; none != (adviceByAllocation[r.String()] == "") {
			t.Errorf("%v: the advice is %q", r, adviceByAllocation[r.String()])
		}
	}
	if adviceByAllocation["Contested"] == "" {
		t.Error("there is no advice where another writer insists")
	}
}
