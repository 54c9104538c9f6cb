package kube

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/belfrylb/belfry/internal/objects"
)

func TestAKindThatCannotBeReadIsToldOnceAndHoldsNothingUpThatCanDoWithout(t *testing.T) {
	for _, c := range []struct {
		name string
		need need
		// facts are "SECOND what", want what follows from each.
		facts, want string
	}{
		{"read", vital, "0 listed, 1 Readable", "read, read"},
		{"missing at start", optional, "0 Missing, 4 Missing, 5 Missing, 9 Missing", "-, -, read tell empty, read"},
		{"missing at start, vital", vital, "0 Missing, 5 Missing", "-, read tell empty"},
		{"removed while running", optional, "0 listed, 60 Missing, 64 Missing, 65 Missing, 70 Missing", "read, read, read, read tell empty, read"},
		{"missing for a moment", optional, "0 listed, 60 Missing, 62 Readable, 64 Missing, 66 Missing", "read, read, read, read, read"},
		{"there again", optional, "0 Missing, 5 Missing, 6 listed, 6 Readable, 7 Readable", "-, read tell empty, read, read tell, read"},
		{"gone twice", optional, "0 Missing, 5 Missing, 6 Readable, 7 Missing, 12 Missing", "-, read tell empty, read tell, read, read tell empty"},
		{"forbidden at start", optional, "0 Forbidden, 5 Forbidden, 10 Forbidden", "-, read tell, read"},
		{"forbidden at start, vital", vital, "0 Forbidden, 5 Forbidden, 10 Forbidden, 11 listed, 11 Readable", "-, - tell, -, read, read tell"},
		{"forbidden while running keeps what is known", optional, "0 listed, 9 Forbidden, 14 Forbidden", "read, read, read tell"},
		{"forbidden, then missing", optional, "0 Forbidden, 5 Forbidden, 6 Missing, 10 Missing, 11 Missing", "-, read tell, read, read, read tell empty"},
		{"missing, and nothing depends on it", incidental, "0 Missing, 5 Missing, 6 listed", "read, read tell empty, read"},
		{"forbidden, and nothing depends on it", incidental, "0 Forbidden, 5 Forbidden, 6 listed, 6 Readable", "read, read tell, read, read tell"},
		{"an API server that is away refuses nothing", vital, "0 Missing, 3 Readable, 5 Missing, 8 Missing", "-, -, -, -"},
	} {
		r := reading{need: c.need, read: c.need == incidental}
		var got []string
		for fact := range strings.SplitSeq(c.facts, ", ") {
			var second int
			var what string
			if _, err := fmt.Sscan(fact, &second, &what); err != nil {
				t.Fatal(err)
			}
			var do readingEffect
			switch now := time.Unix(int64(second), 0); what {
			case "listed":
				r.listed()
			case "Readable":
				do = r.tried(now, readable)
			case "Missing":
				do = r.tried(now, missing)
			case "Forbidden":
				do = r.tried(now, forbidden)
			}
			text := map[bool]string{true: "read", false: "-"}[r.read]
			if do.Tell {
				text += " tell"
			}
			if do.Empty {
				text += " empty"
			}
			got = append(got, text)
		}
		if is := strings.Join(got, ", "); is != c.want {
			t.Errorf("%s:\n%s\nwant\n%s", c.name, is, c.want)
		}
	}
}

func TestOnlyTheAPIServersWordIsARefusal(t *testing.T) {
	pools := schema.GroupResource{Group: "belfry.dev", Resource: "ipaddresspools"}
	for _, c := range []struct {
		err  error
		want refusal
	}{
		{nil, readable},
		{context.DeadlineExceeded, readable},
		{apierrors.NewNotFound(pools, ""), missing},
		{fmt.Errorf("list: %w", apierrors.NewForbidden(pools, "", nil)), forbidden},
		{apierrors.NewUnauthorized("expired"), readable},
		{apierrors.NewTooManyRequests("later", 1), readable},
		{apierrors.NewResourceExpired("too old"), readable},
		{apierrors.NewInternalError(context.Canceled), readable},
	} {
		if got := refusalOf(c.err); got != c.want {
			t.Errorf("%v: %v, want %v", c.err, got, c.want)
		}
	}
}

func TestAWatchIsResumedOnlyInTheHistoryThatIsKnown(t *testing.T) {
	c := NewCluster(&CoreClient{}, &OwnClient{}, objects.Scope{}, slog.New(slog.DiscardHandler))
	k := c.kinds[0]
	asked := 0
	latest := func(version string) func(context.Context, metav1.ListOptions) (runtime.Object, error) {
		return func(context.Context, metav1.ListOptions) (runtime.Object, error) {
			asked++
			return &metav1.PartialObjectMetadataList{ListMeta: metav1.ListMeta{ResourceVersion: version}}, nil
		}
	}
	from := func(version string) metav1.ListOptions { return metav1.ListOptions{ResourceVersion: version} }
	if err := k.check(t.Context(), from("7"), latest("3")); err != nil || asked != 0 {
		t.Errorf("the first watch: %v, asked %d times", err, asked)
	}
	k.due = time.Now()
	if err := k.check(t.Context(), from("7"), latest("3")); err != nil || asked != 0 {
		t.Errorf("a watch that ended when it was to end: %v, asked %d times", err, asked)
	}
	k.due = time.Now().Add(time.Hour)
	if err := k.check(t.Context(), from("7"), latest("7")); err != nil || asked != 1 {
		t.Errorf("nothing has happened meanwhile: %v, asked %d times", err, asked)
	}
	if err := k.check(t.Context(), from("10"), latest("9")); !apierrors.IsResourceExpired(err) {
		t.Errorf("the history has been put back: %v", err)
	}
	if err := k.check(t.Context(), from(""), latest("9")); err != nil || asked != 2 {
		t.Errorf("all is read anew anyway: %v, asked %d times", err, asked)
	}
}

func TestWhatIsKnownAgesWhileNoAttemptToReadSucceeds(t *testing.T) {
	for _, c := range []struct {
		name string
		// facts are "SECOND what", want the age that follows from each.
		facts, want string
	}{
		{"watched", "0 ok, 60 ok", "0s 0s"},
		{"unreachable", "0 ok, 10 failed, 12 failed, 70 failed", "0s 0s 2s 1m0s"},
		{"reached again", "10 failed, 70 failed, 71 ok, 80 failed, 81 failed", "0s 1m0s 0s 0s 1s"},
		{"forbidden", "10 Forbidden, 70 Forbidden", "0s 1m0s"},
		{"no such kind, so no objects", "10 Missing, 70 Missing", "0s 0s"},
	} {
		var r reading
		var got []string
		for fact := range strings.SplitSeq(c.facts, ", ") {
			var second int
			var what string
			if _, err := fmt.Sscan(fact, &second, &what); err != nil {
				t.Fatal(err)
			}
			now := time.Unix(int64(second), 0)
			r.reached(now, what == "ok")
			for _, is := range []refusal{missing, forbidden} {
				if is.String() == what {
					r.tried(now, is)
				}
			}
			got = append(got, r.age(now).String())
		}
		if is := strings.Join(got, " "); is != c.want {
			t.Errorf("%s: %s, want %s", c.name, is, c.want)
		}
	}
}
