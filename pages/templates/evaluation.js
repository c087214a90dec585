const tool = document.getElementById('blind'), none = 'no preference'
if (tool) {
  const button = tool.querySelector('button'), status = tool.querySelector('span')
  const rows = [...document.querySelectorAll('.sentence')].map(row => {
    const takes = [...row.querySelectorAll('.take')], list = row.querySelector('.takes')
    return {row, list, takes, heads: takes.map(take => take.querySelector('.who').innerHTML)}
  })
  const label = (take, html) => {
    take.querySelector('.who').innerHTML = html
    take.querySelector('audio').setAttribute('aria-label', take.querySelector('.who').textContent)
  }
  const vote = (row, number) => {
    const box = document.createElement('fieldset')
    box.innerHTML = '<legend>Which is better?</legend>'
    for (const [place, take] of [...row.order, null].entries()) {
      const choice = document.createElement('label'), input = document.createElement('input')
      Object.assign(input, {type: 'radio', name: 'vote' + number, value: place, onchange: () => {
        row.vote = take ? take.dataset.name : none
        count()
      }})
      choice.append(input, ' ' + (take ? letter(place) : none))
      box.append(choice)
    }
    row.row.append(row.box = box)
  }
  const letter = place => String.fromCharCode(65 + place)
  const count = () => {
    const done = rows.filter(row => row.vote).length
    status.textContent = `${done} of ${rows.length} chosen. ` + (done < rows.length ? 'Choose below.' : 'Now reveal.')
  }
  const start = () => {
    for (const [number, row] of rows.entries()) {
      row.order = row.takes.map(take => [Math.random(), take]).sort((a, b) => a[0] - b[0]).map(pair => pair[1])
      row.vote = null
      for (const take of row.takes) take.classList.remove('chosen')
      for (const [place, take] of row.order.entries()) label(take, letter(place))
      row.list.append(...row.order)
      vote(row, number)
    }
    count()
  }
  const reveal = () => {
    const votes = {}
    for (const row of rows) {
      for (const take of row.takes) label(take, row.heads[row.takes.indexOf(take)])
      row.list.append(...row.takes)
      for (const take of row.takes) take.classList.toggle('chosen', row.vote === take.dataset.name)
      row.box.remove()
      if (row.vote) votes[row.vote] = (votes[row.vote] || 0) + 1
    }
    const found = Object.entries(votes).sort((a, b) => b[1] - a[1]).map(([name, number]) => `${name} ${number}`)
    status.textContent = found.length ? 'You preferred: ' + found.join(', ') + '.' : 'Nothing was chosen.'
  }
  button.onclick = () => {
    const blind = document.body.classList.toggle('blind')
    for (const audio of document.querySelectorAll('audio')) audio.pause()
    button.textContent = blind ? 'Reveal' : 'Blind test'
    blind ? start() : reveal()
  }
  tool.hidden = false
}
