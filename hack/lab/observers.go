package lab

// Observers tell what hosts see, from the outside: who answers for an address, what
// is claimed, and how requests fare.
type Observers struct {
	run     *run
	network *Network
}
