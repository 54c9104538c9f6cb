package lab_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/belfrylb/belfry/hack/lab"
)

var shared = lab.Share(lab.Options{Nodes: 3})

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) != "" {
		os.Exit(child())
	}
	os.Exit(shared.Run(m))
}

// childEnv makes this test binary a process that has a lab and waits for its
// end.
const childEnv = "BELFRY_LAB_TEST_CHILD"

// children are the labs that it may have.
var children = map[string]lab.Options{
	"plain":      {Nodes: 1},
	"containers": {Nodes: 1, Containers: true},
}

func child() int {
	l, err := lab.Up(context.Background(), children[os.Getenv(childEnv)])
	if err != nil {
		fmt.Println("cannot:", err)
		return 1
	}
	fmt.Println(l.Name)
	select {}
}

// eventually fails the test if check has not returned nil in time.
func eventually(t *testing.T, within time.Duration, check func() error) {
	t.Helper()
	deadline := time.Now().Add(within)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %v", within, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

var errNotYet = errors.New("not yet")
