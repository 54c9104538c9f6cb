// Package report decides what Services are told of their announcing, from what the
// speakers say of themselves. It is pure.
//
//	SpeakerStatus of each node -> Report --\
//	                                        View: who lives, who answers for what --\
//	API objects -> announce.Index -------------------------------------------------- Teller.Tell -> []Telling
//	what was told before, and when: Teller --/
//
// Speakers write nothing but their reports. One voice, the controller's, tells
// everybody else: the condition Announced, where addresses are recorded to be, and
// Events. So a speaker's credentials can do no harm to a Service, a thousand
// addresses that move are one write of the speaker that took them over, and two
// speakers never contradict each other on one object.
//
// # Whom to believe
//
// The last words of a speaker that was killed stay in the API for as long as its
// Node does. Whether a report is more than last words is told by the others: each
// says which nodes it does not hear ([Report.Unheard]). See [NewView].
//
// # When to tell
//
// What is better than what was told is told at once. What is worse waits for
// settled: while speakers start or a failure is being repaired it is nothing to wake
// anybody for. How many nodes advertise an address waits for recounting.
//
// # What is not read
//
// No decision depends on a sentence: what was told is remembered as values, and
// what a Service says is compared as a whole at most.
package report
